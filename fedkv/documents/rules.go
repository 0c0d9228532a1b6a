package documents

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/format/gitignore"
	"github.com/goccy/go-yaml"

	"fedattn/fedkv"
)

// RulesFile is where an owner's rules are, in the device's folder.
const RulesFile = "documents.yaml"

// Policy says what may become of a document.
type Policy string

// The policies.
const (
	Rows   Policy = "rows"   // it may be in a segment whose rows are sent
	Home   Policy = "home"   // only in one whose rows stay here and answer queries
	Refuse Policy = "refuse" // in none
)

// ParsePolicy reads rows, home or refuse.
func ParsePolicy(name string) (Policy, error) {
	if p := Policy(name); slices.Contains([]Policy{Rows, Home, Refuse}, p) {
		return p, nil
	}
	return "", fmt.Errorf("unknown policy %q; known are rows, home, refuse", name)
}

// Rules are what an owner shares and on which terms, as YAML:
//
//	folders: [/home/me/garden]
//	commands: [{name: boot log, run: journalctl -n 200}]
//	rules:                       # the last one that matches a document and sets something holds
//	  - {match: "diary/", policy: refuse}
//	  - {match: "*.log", policy: home, tokens: 400}
//	  - {match: house rules.md, pin: true}
type Rules struct {
	Folders  []string  `yaml:"folders,omitempty"`
	Commands []Command `yaml:"commands,omitempty"`
	Rules    []Rule    `yaml:"rules,omitempty"`
}

// Rule is for the documents that match.
type Rule struct {
	Match  string `yaml:"match"`            // a pattern as in .gitignore for the path below its folder, or a document's name
	Policy Policy `yaml:"policy,omitempty"` // empty: as before; Rows if no rule says anything
	Tokens int    `yaml:"tokens,omitempty"` // most of it in one segment; 0: as before, and otherwise no limit
	Pin    *bool  `yaml:"pin,omitempty"`    // it comes before the others where not all fit
}

// Terms are what the rules make of one document.
type Terms struct {
	Policy Policy
	Tokens int // 0: no limit
	Pin    bool
}

// ParseRules reads rules. Keys that it does not know are errors: a refusal with a typing error would be none.
func ParseRules(text []byte) (r Rules, err error) {
	if len(text) > maxRules {
		return r, fmt.Errorf("it has %s, rules at most %s", sizeText(int64(len(text))), sizeText(maxRules))
	}
	if err := yaml.NewDecoder(bytes.NewReader(text), yaml.Strict()).Decode(&r); err != nil && !isEnd(err) {
		first, _, _ := strings.Cut(yaml.FormatError(err, false, false), "\n")
		return Rules{}, errors.New(first)
	}
	return r, r.validate()
}

func (r Rules) validate() error {
	if len(r.Commands) > maxCommands {
		return fmt.Errorf("%d commands, at most %d", len(r.Commands), maxCommands)
	}
	for i, c := range r.Commands {
		if strings.TrimSpace(c.Run) == "" {
			return fmt.Errorf("command %d has nothing to run", i+1)
		}
	}
	for i, rule := range r.Rules {
		if strings.TrimSpace(rule.Match) == "" {
			return fmt.Errorf("rule %d matches nothing: say what with match", i+1)
		}
		if rule.Policy != "" {
			if _, err := ParsePolicy(string(rule.Policy)); err != nil {
				return fmt.Errorf("rule %d: %w", i+1, err)
			}
		}
		if rule.Tokens < 0 || rule.Tokens > fedkv.MaxTokens {
			return fmt.Errorf("rule %d: %d tokens, must be 0 to %d", i+1, rule.Tokens, fedkv.MaxTokens)
		}
	}
	return nil
}

// ReadRules reads the file of rules in a folder; without one there are none.
func ReadRules(dir string) (Rules, error) {
	path := filepath.Join(dir, RulesFile)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Rules{}, nil
	}
	if err != nil {
		return Rules{}, err
	}
	r, err := ParseRules(text)
	if err != nil {
		return Rules{}, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// Write keeps rules in a folder, for their owner only. A reader sees the old or the new ones.
func (r Rules) Write(dir string) error {
	if err := r.validate(); err != nil {
		return err
	}
	text, err := yaml.Marshal(r)
	if err != nil {
		return err
	}
	file, err := os.CreateTemp(dir, RulesFile+".*") // mode 0600
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	err = errors.Join(err, file.Sync(), file.Close())
	if err == nil {
		err = os.Rename(file.Name(), filepath.Join(dir, RulesFile))
	}
	if err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	return nil
}

// Set makes a rule the last one for its pattern: it takes the place of one that is there.
func (r *Rules) Set(rule Rule) {
	r.Rules = slices.DeleteFunc(r.Rules, func(old Rule) bool { return old.Match == rule.Match })
	r.Rules = append(r.Rules, rule)
}

// terms are those of a document by its name and path.
func (r Rules) terms(name, path string) Terms {
	t := Terms{Policy: Rows}
	for _, rule := range r.Rules {
		if rule.Match != name && gitignore.ParsePattern(rule.Match, nil).Match(split(path), false) != gitignore.Exclude {
			continue
		}
		if rule.Policy != "" {
			t.Policy = rule.Policy
		}
		if rule.Tokens > 0 {
			t.Tokens = rule.Tokens
		}
		if rule.Pin != nil {
			t.Pin = *rule.Pin
		}
	}
	return t
}
