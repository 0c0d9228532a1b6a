package node_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
)

// named is a Source that says of which documents its tokens are, and hears the question.
type named struct {
	mu    sync.Mutex
	text  fedkv.Text
	asked []string
}

func (n *named) Segment(_ context.Context, plan fedkv.Plan) (fedkv.Text, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked = append(n.asked, plan.Question)
	return n.text, nil
}

func (n *named) set(tokens []fedkv.Token, sources ...fedkv.Source) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.text = fedkv.Text{Tokens: tokens, Sources: sources}
}

func isLog(name string) bool { return name == "log" }

const withdrawn = "its owner has withdrawn a document"

// Who has to choose is told the words of the turn; when a document is taken back, the next turn goes on without the rows,
// and with what its owner shares now.
func TestAWithdrawnDocumentLeavesTheConversation(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", lossy, 7, 4, 3)
		source := &named{}
		source.set(s.segments[0], fedkv.Source{Tokens: 2}, fedkv.Source{Name: "log", Tokens: 5})
		s.hosts[0].config.Source = source
		s.open()
		contacts := s.question().Contacts
		contacts[0].ShareQuestion = true
		hangUp := s.keepLinks(contacts)
		c := s.converse(func(c *node.Chat) { c.Contacts = contacts })
		c.turn("one", 2)
		c.check("with everybody")
		p := c.reply.Report.Peers[0]
		if len(p.Sources) != 2 || p.Sources[1].Name != "log" || !p.Asked || c.reply.Report.Peers[1].Asked {
			t.Errorf("%+v", c.reply.Report.Peers)
		}
		arrive()
		if told := s.hosts[0].node.Withdraw(t.Context(), func(string) bool { return false }, withdrawn); told != 0 {
			t.Errorf("%d were told of nothing", told)
		}
		if told := s.hosts[0].node.Withdraw(t.Context(), isLog, withdrawn); told != 1 {
			t.Errorf("%d were told", told)
		}
		if told := s.hosts[0].node.Withdraw(t.Context(), isLog, withdrawn); told != 0 {
			t.Errorf("%d were told again", told)
		}
		arrive()
		source.set(s.segments[0][:2], fedkv.Source{Name: "rest", Tokens: 2})
		c.turn("two", 2)
		shares := c.Shares()
		if len(shares) != 3 || shares[0].State != node.ShareWithdrawn || shares[2].State != node.SharePresent || shares[2].Tokens != 2 {
			t.Errorf("%+v", shares)
		}
		if notes := strings.Join(c.reply.Report.Notes, "\n"); !strings.Contains(notes, "host0 took its rows back ("+withdrawn+")") {
			t.Errorf("notes: %q", notes)
		}
		c.turn("three", 2)
		if len(c.reply.Report.Notes) > 0 {
			t.Errorf("said again: %q", c.reply.Report.Notes)
		}
		if got := strings.Join(source.asked, "|"); got != "one|two" {
			t.Errorf("it was told %q", got)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		hangUp()
		s.close()
		s.quiet()
		if list := s.hosts[0].contributions(); len(list) != 2 || list[0].Documents[0] != "log" || list[1].Documents[0] != "rest" {
			t.Errorf("%+v", list)
		}
	})
}

// Before anything is computed with them, rows that are taken back were never there.
func TestADocumentIsWithdrawnBeforeItIsUsed(t *testing.T) {
	play(t, "", func(t *testing.T) {
		s := newStage(t, "gather", lossy, 7, 4, 3)
		source := &named{}
		source.set(s.segments[0], fedkv.Source{Name: "log", Tokens: 7})
		s.hosts[0].config.Source = source
		s.hosts[1].config.Source = tardy{tokens(s.segments[1]), 5 * time.Second}
		s.open()
		go func() {
			time.Sleep(2 * time.Second)
			if told := s.hosts[0].node.Withdraw(context.Background(), isLog, withdrawn); told != 1 {
				t.Errorf("%d were told", told)
			}
		}()
		o := s.mustAsk()
		s.close()
		m := onlyMissing(t, o)
		if m.Name != "host0" || m.Code != fedkv.CodeForbidden || m.Phase != fedkv.PhaseSetup || !strings.Contains(m.Text, "withdrawn") {
			t.Errorf("%v", m)
		}
		s.check(o)
	})
}
