// Package settings reads the file in which a person keeps flags, so that they need not be typed again.
//
//	model: /models/model.gguf     every command with such a flag
//	peer: [garden, shed]
//	chat:                         one command
//	  temp: 0.7
package settings

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"syscall"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// maxFile bounds the file, in bytes.
const maxFile = 1 << 20

// A Setting is one line of the file.
type Setting struct {
	Section string   // the command that it is for; empty for all
	Key     string   // name of a flag, without dashes
	Texts   []string // its values as on a command line; several if List
	List    bool
	Line    int // from 1
}

// File is what a file says, in its order.
type File struct {
	Path     string
	Settings []Setting
}

// Where is the place of a setting for people.
func (f File) Where(s Setting) string { return fmt.Sprintf("%s:%d", f.Path, s.Line) }

// Find returns a command's setting: one in its section, by the flag's name, goes before one for all commands.
func (f File) Find(command, flag, everywhere string) (Setting, bool) {
	for _, at := range []Setting{{Section: command, Key: flag}, {Key: everywhere}} {
		i := slices.IndexFunc(f.Settings, func(s Setting) bool { return s.Section == at.Section && s.Key == at.Key })
		if i >= 0 {
			return f.Settings[i], true
		}
	}
	return Setting{}, false
}

// Read reads a file; one that does not exist says nothing. Errors name the line.
func Read(path string) (File, error) {
	f := File{Path: path}
	in, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) { // whoever needs the directory says so
		return f, nil
	}
	if err != nil {
		return f, err
	}
	defer in.Close()
	text, err := io.ReadAll(io.LimitReader(in, maxFile+1))
	if err != nil {
		return f, err
	}
	if len(text) > maxFile {
		return f, fmt.Errorf("%s has more than %d KiB, which are too many for settings", path, maxFile>>10)
	}
	f.Settings, err = parse(text)
	if err != nil {
		var at *lineError
		if errors.As(err, &at) {
			return f, fmt.Errorf("%s:%w", path, err)
		}
		return f, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// lineError is a mistake at a line.
type lineError struct {
	line int
	text string
}

func (e *lineError) Error() string { return fmt.Sprintf("%d: %s", e.line, e.text) }

func wrong(n ast.Node, format string, args ...any) error {
	return &lineError{n.GetToken().Position.Line, fmt.Sprintf(format, args...)}
}

func parse(text []byte) (list []Setting, err error) {
	file, err := parser.ParseBytes(text, 0)
	if err != nil {
		var syntax yaml.Error
		if errors.As(err, &syntax) && syntax.GetToken() != nil {
			return nil, &lineError{syntax.GetToken().Position.Line, syntax.GetMessage()}
		}
		first, _, _ := bytes.Cut([]byte(err.Error()), []byte("\n"))
		return nil, errors.New(string(first))
	}
	for _, doc := range file.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.NullType {
			continue
		}
		if _, isComment := doc.Body.(*ast.CommentGroupNode); isComment {
			continue
		}
		top, err := entries(doc.Body)
		if err != nil {
			return nil, err
		}
		for _, e := range top {
			if _, isSection := e.Value.(ast.MapNode); !isSection {
				s, err := setting("", e)
				if err != nil {
					return nil, err
				}
				list = append(list, s)
				continue
			}
			section, err := entries(e.Value)
			if err != nil {
				return nil, err
			}
			for _, inner := range section {
				s, err := setting(key(e), inner)
				if err != nil {
					return nil, err
				}
				list = append(list, s)
			}
		}
	}
	for i, s := range list {
		twice := slices.IndexFunc(list[:i], func(o Setting) bool { return o.Section == s.Section && o.Key == s.Key })
		if twice >= 0 {
			return nil, &lineError{s.Line, fmt.Sprintf("%s is set in line %d already", s.Key, list[twice].Line)}
		}
	}
	return list, nil
}

func entries(n ast.Node) ([]*ast.MappingValueNode, error) {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values, nil
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, nil
	}
	return nil, wrong(n, "settings are lines such as model: /models/model.gguf")
}

func key(e *ast.MappingValueNode) string { return e.Key.GetToken().Value }

func setting(section string, e *ast.MappingValueNode) (Setting, error) {
	s := Setting{Section: section, Key: key(e), Line: e.Key.GetToken().Position.Line}
	if list, ok := e.Value.(*ast.SequenceNode); ok {
		s.List = true
		for _, v := range list.Values {
			text, err := scalar(s.Key, v)
			if err != nil {
				return s, err
			}
			s.Texts = append(s.Texts, text)
		}
		return s, nil
	}
	text, err := scalar(s.Key, e.Value)
	s.Texts = []string{text}
	return s, err
}

// scalar is a value as one would type it.
func scalar(key string, n ast.Node) (string, error) {
	switch n := n.(type) {
	case *ast.LiteralNode:
		return n.Value.Value, nil
	case *ast.StringNode:
		return n.Value, nil
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return n.GetToken().Value, nil // 0.10 stays 0.10
	case *ast.NullNode:
		return "", wrong(n, "%s has no value", key)
	}
	return "", wrong(n, "%s has to be one value, or a list of values", key)
}
