package policy

import (
	"errors"
	"strings"
	"testing"

	"fedattn/fedkv"
)

const whole = `
ask: [laptop, phone]
rows: [laptop]
min_layer: 2
session: {tokens: 2000, bytes: 50MB}
day: {tokens: 3000}
documents: ["garden*"]
ask_me_first: true
peers:
  phone: {documents: [shopping.txt], ask_me_first: false, session: {tokens: 10}}
`

func trusted(name string) Peer { return Peer{Name: name, ID: "ID-" + name, Rights: Both, Trust: Rows} }

func parse(t *testing.T, text string) Policy {
	t.Helper()
	p, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestGrant(t *testing.T) {
	p := parse(t, whole)
	for _, c := range []struct {
		peer string
		used Amount
		want Grant
	}{
		{"laptop", Amount{}, Grant{2, 2000, 50e6, []string{"garden*"}, true}},
		{"laptop", Amount{Tokens: 2500, Bytes: 1 << 40}, Grant{2, 500, 50e6, []string{"garden*"}, true}},
		{"phone", Amount{}, Grant{2, 10, 50e6, []string{"shopping.txt"}, false}},
		{"phone", Amount{Tokens: 2995}, Grant{2, 5, 50e6, []string{"shopping.txt"}, false}},
	} {
		got, err := p.Grant(trusted(c.peer), c.used)
		if err != nil || got.MinLayer != c.want.MinLayer || got.MaxTokens != c.want.MaxTokens || got.MaxBytes != c.want.MaxBytes ||
			strings.Join(got.Documents, " ") != strings.Join(c.want.Documents, " ") || got.AskMeFirst != c.want.AskMeFirst {
			t.Errorf("%s, used %v: %+v, %v, want %+v", c.peer, c.used, got, err, c.want)
		}
	}
	for _, used := range []int{3000, 3001} {
		if _, err := p.Grant(trusted("laptop"), Amount{Tokens: used}); !errors.Is(err, fedkv.ErrLimit) {
			t.Errorf("after %d tokens: %v", used, err)
		}
	}
	if _, err := parse(t, "day: {bytes: 1kB}").Grant(trusted("laptop"), Amount{Bytes: 1000}); !errors.Is(err, fedkv.ErrLimit) {
		t.Errorf("after all bytes: %v", err)
	}
	if g, err := (Policy{}).Grant(trusted("laptop"), Amount{1 << 40, 1 << 40}); err != nil || g.MaxTokens != 0 || g.MaxBytes != 0 || !g.Shares("anything") {
		t.Errorf("no policy grants %+v, %v", g, err)
	}
}

func TestAdmits(t *testing.T) {
	g := Grant{MaxTokens: 10, MaxBytes: 100}
	for _, c := range []struct {
		tokens int
		bytes  int64
		ok     bool
	}{{10, 100, true}, {11, 1, false}, {1, 101, false}} {
		if err := g.Admits(c.tokens, c.bytes); (err == nil) != c.ok || err != nil && !errors.Is(err, fedkv.ErrLimit) {
			t.Errorf("%d tokens, %d bytes: %v", c.tokens, c.bytes, err)
		}
	}
	if err := (Grant{}).Admits(1<<40, 1<<50); err != nil {
		t.Errorf("without limits: %v", err)
	}
}

func TestWhoMay(t *testing.T) {
	p := parse(t, whole)
	for _, c := range []struct {
		peer      Peer
		ask, rows error
	}{
		{trusted("laptop"), nil, nil},
		{trusted("phone"), nil, fedkv.ErrHome},
		{trusted("shed"), fedkv.ErrForbidden, fedkv.ErrHome},
		{Peer{Name: "laptop", Rights: Contribute, Trust: Rows}, fedkv.ErrForbidden, nil},
		{Peer{Name: "laptop", Rights: Both, Trust: Home}, nil, fedkv.ErrHome},
		{Peer{Name: "laptop"}, fedkv.ErrForbidden, fedkv.ErrHome},
	} {
		if err := p.MayAsk(c.peer); !errors.Is(err, c.ask) {
			t.Errorf("%+v asks: %v, want %v", c.peer, err, c.ask)
		}
		if err := p.MayHaveRows(c.peer); !errors.Is(err, c.rows) {
			t.Errorf("%+v has rows: %v, want %v", c.peer, err, c.rows)
		}
	}
	// an empty list is nobody, none is everybody; a nameless peer is not the empty name
	if parse(t, "ask: []").MayAsk(trusted("laptop")) == nil || parse(t, "min_layer: 0").MayAsk(trusted("laptop")) != nil ||
		parse(t, `ask: [""]`).MayAsk(Peer{Rights: Both}) == nil {
		t.Error("an empty list")
	}
	if Peer.MayContribute(Peer{Rights: Ask}) == nil || Peer.MayContribute(Peer{Rights: Contribute}) != nil {
		t.Error("who may contribute")
	}
}

func TestShares(t *testing.T) {
	g := Grant{Documents: []string{"garden*", "x.txt"}}
	for name, want := range map[string]bool{"garden.txt": true, "garden": true, "x.txt": true, "my-garden.txt": false, "": false} {
		if g.Shares(name) != want {
			t.Errorf("%q: %v", name, !want)
		}
	}
	if (Grant{Documents: []string{}}).Shares("x") {
		t.Error("an empty list shares something")
	}
}

// Whatever is not understood is an error: a limit that is misread would be none.
func TestParseRefuses(t *testing.T) {
	for _, text := range []string{
		"min_layr: 2", "peers: {laptop: {tokens: 3}}", "session: 5", "session: {bytes: lots}", "session: {bytes: -1}", "day: {tokens: -3}",
		"min_layer: -1", "documents: ['[']", "ask: laptop", "ask_me_first: perhaps", "- a list", strings.Repeat("# x\n", maxPolicy),
		"session: {bytes: NaN}", "session: {bytes: 1e300}",
	} {
		if p, err := Parse([]byte(text)); err == nil {
			t.Errorf("%.40q was taken: %+v", text, p)
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("%.40q: the error has lines: %v", text, err)
		}
	}
	if _, err := Parse(nil); err != nil {
		t.Errorf("an empty file: %v", err)
	}
}

func TestNames(t *testing.T) {
	for _, r := range []Rights{Ask, Contribute, Both} {
		if got, err := ParseRights(r.String()); got != r || err != nil {
			t.Errorf("%v: %v, %v", r, got, err)
		}
	}
	for _, tr := range []Trust{Home, Rows} {
		if got, err := ParseTrust(tr.String()); got != tr || err != nil {
			t.Errorf("%v: %v, %v", tr, got, err)
		}
	}
	for _, bad := range []string{"", "none", "Both", "rights(0)"} {
		if _, err := ParseRights(bad); err == nil {
			t.Errorf("rights %q", bad)
		}
		if _, err := ParseTrust(bad); err == nil {
			t.Errorf("trust %q", bad)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(whole))
	f.Add([]byte("day: {bytes: 1.5GiB}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := Parse(text)
		if err == nil {
			g, err := p.Grant(trusted("laptop"), Amount{5, 5})
			if err == nil && (g.MinLayer < 0 || g.MaxTokens < 0 || g.MaxBytes < 0) {
				t.Errorf("%q grants %+v", text, g)
			}
		}
	})
}
