package assistant

import (
	"fmt"
	"slices"

	"fedattn/fedkv/node"
)

// document is a text of this device, and the contributor that has it.
type document struct {
	name    string
	tokens  int
	number  int // among the shares of the conversation
	contact node.Contact
	stop    func()
}

// source starts a contributor for a text; it is reached without a network.
func (a *Assistant) source(d node.Document) (*document, error) {
	source, err := node.NewDocuments(a.cfg.Engine, a.cfg.Self.Name, []node.Document{d})
	if err != nil {
		return nil, err
	}
	if room := a.cfg.MaxContext; source.Tokens() >= room {
		return nil, fmt.Errorf("%s has %d tokens, the context has room for %d: give a shorter one, or change --context", d.Name, source.Tokens(), room)
	}
	contact, stop := node.Beside(a.context, d.Name, node.ContributorConfig{
		Engine: a.cfg.Engine, Self: a.cfg.Host, ID: a.cfg.ID, Signer: a.cfg.Signer, Device: a.cfg.Device, Source: source,
		MaxContext: a.cfg.MaxContext, LocalRows: a.cfg.LocalRows, Log: a.cfg.Log,
	})
	return &document{name: d.Name, tokens: source.Tokens(), contact: contact, stop: stop}, nil
}

// Read takes in a document: the next answer attends to it. It returns the tokens that it has.
func (a *Assistant) Read(d node.Document) (tokens int, err error) {
	if slices.ContainsFunc(a.docs, func(have *document) bool { return have.name == d.Name }) {
		return 0, fmt.Errorf("%s is here already: drop it first to read it anew", d.Name)
	}
	added, err := a.source(d)
	if err != nil {
		return 0, err
	}
	added.number = len(a.talk.Shares())
	if err := a.talk.Add(added.contact); err != nil {
		added.stop()
		return 0, err
	}
	a.docs = append(a.docs, added)
	return added.tokens, nil
}

// Withdraw takes a document out, as if it had never been there.
func (a *Assistant) Withdraw(name string) error {
	i := slices.IndexFunc(a.docs, func(d *document) bool { return d.name == name })
	if i < 0 {
		return fmt.Errorf("there is no document %q", name)
	}
	if err := a.talk.Withdraw(a.docs[i].number); err != nil {
		return err
	}
	a.docs[i].stop()
	a.docs = slices.Delete(a.docs, i, i+1)
	return nil
}

// Document is a document as it can be told about.
type Document struct {
	Name   string
	Tokens int
}

// Documents lists what this device contributes itself.
func (a *Assistant) Documents() (list []Document) {
	for _, d := range a.docs {
		list = append(list, Document{d.name, d.tokens})
	}
	return list
}
