package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
	"fedattn/fedkv/node/device"
	"fedattn/transport"
)

// answer is what ask --json prints. Times are in milliseconds.
type answer struct {
	Answer     string     `json:"answer"`
	Stop       string     `json:"stop"` // stop: the model ended its turn; length: --predict did
	Federation federation `json:"federation"`
}

type federation struct {
	Session   string     `json:"session"`
	Regime    string     `json:"regime"`
	Wire      string     `json:"wire"`
	Tokens    int        `json:"tokens"` // of the stream that the answer rests on
	Peers     []peerJSON `json:"peers"`
	Bytes     int64      `json:"bytes"` // of rows that came over the network
	SetupMS   float64    `json:"setup_ms"`
	WaitMS    float64    `json:"wait_ms"`
	SyncMS    float64    `json:"sync_ms"`
	PrefillMS float64    `json:"prefill_ms"`
	TTFTMS    float64    `json:"ttft_ms"`
	DecodeMS  float64    `json:"decode_ms"`
	Decoded   int        `json:"decoded"`
	Drafted   int        `json:"draft_n,omitempty"` // as llama-server calls them
	Accepted  int        `json:"draft_n_accepted,omitempty"`
	Notes     []string   `json:"notes,omitempty"`
	// Sources is whose rows the answer looked at when it began, the most first; not there if the engine does not tell.
	Sources []attendedJSON `json:"sources,omitempty"`
	// Energy is what this device drew for question and answer; not there without a power sensor that the user may read.
	Energy *energyJSON `json:"energy,omitempty"`
	*layersJSON
}

type energyJSON struct {
	Joules         float64 `json:"joules"`
	JoulesPerToken float64 `json:"joules_per_token"` // of the answer
	Sensor         string  `json:"sensor"`
}

type peerJSON struct {
	Name       string       `json:"name"`
	ID         string       `json:"id,omitempty"`
	Local      bool         `json:"local,omitempty"` // this device's own documents
	Tokens     int          `json:"tokens"`
	Rows       int          `json:"rows"`
	Bytes      int64        `json:"bytes"`
	PrefillMS  float64      `json:"prefill_ms"`
	TransferMS float64      `json:"transfer_ms"`
	Sources    []sourceJSON `json:"sources,omitempty"` // of which documents its tokens are, in order, as it says
	Asked      bool         `json:"asked,omitempty"`   // it was told the question
	Via        []viaJSON    `json:"via,omitempty"`     // lockstep: peers that its rows reached through this device
	Missing    *missingJSON `json:"missing,omitempty"`
}

type sourceJSON struct {
	Document string `json:"document"` // empty: what stands around documents
	Tokens   int    `json:"tokens"`
}

// attendedJSON is a peer, or this device's own documents.
type attendedJSON struct {
	Name     string  `json:"name"`
	ID       string  `json:"id,omitempty"`
	Local    bool    `json:"local,omitempty"`
	Document string  `json:"document,omitempty"` // if the peer says of which its rows are
	Share    float64 `json:"share"`              // of the weights of all sources: see node.Attended
}

type viaJSON struct {
	To    string `json:"to"`
	Bytes int64  `json:"bytes"`
}

type missingJSON struct {
	Code  string `json:"code"`
	Phase string `json:"phase"`
	Layer *int   `json:"layer,omitempty"` // the first that is not whole; before the prefill there is none
	// SilentMS is how long it had given no sign of life; not there if it is missing for another reason.
	SilentMS float64 `json:"silent_ms,omitempty"`
	Text     string  `json:"text"`
}

// reporter tells the user about a session. Contributors that have an address are peers; one more is this device itself.
type reporter struct {
	addresses []transport.PeerAddress // by origin
	wire      fedkv.Wire
	err       io.Writer
	perLayer  bool            // JSON tells of each layer
	power     *device.Reading // of this device, until the answer is over; nil: it does not tell

	said  []string     // about passages
	noted int          // notes that were written before the answer
	told  map[int]bool // origins that were named as missing before it
}

func (t reporter) isPeer(p node.PeerReport) bool { return p.Origin < len(t.addresses) }

// beforeAnswer says who is missing in the answer. It fails if somebody has to take part and no peer ever did.
func (t *reporter) beforeAnswer(r node.Report, somebody bool) error {
	for _, note := range r.Notes {
		fmt.Fprintf(t.err, "note: %s\n", note)
	}
	t.noted, t.told = len(r.Notes), map[int]bool{}
	t.passages(r)
	var why []string
	for _, p := range r.Peers {
		if p.Missing == nil || p.Missing.Phase == fedkv.PhasePrefill || p.Missing.Phase == fedkv.PhaseTransfer || p.Missing.Phase == fedkv.PhaseAnswer {
			somebody = false
		}
		if p.Missing != nil {
			why = append(why, t.why(*p.Missing))
			t.told[p.Origin] = true
		}
	}
	if somebody && len(why) == 1 {
		return fmt.Errorf("no peer takes part: %s", why[0])
	}
	for _, text := range why {
		fmt.Fprintf(t.err, "missing: %s\n", text)
	}
	if somebody {
		return fmt.Errorf("none of the %d peers takes part: mend what is missing, or say --min-peers 0 to be answered from nothing", len(why))
	}
	return nil
}

// passages says who was told the question, and which documents the answer can rest on.
func (t *reporter) passages(r node.Report) {
	var asked, from []string
	for _, p := range r.Peers {
		name := t.name(p.Origin, p.Name)
		if p.Asked {
			asked = append(asked, name)
		}
		if p.Missing != nil {
			continue
		}
		for i, s := range p.Sources {
			if s.Name != "" && !slices.ContainsFunc(p.Sources[:i], func(before fedkv.Source) bool { return before.Name == s.Name }) {
				from = append(from, fmt.Sprintf("[%s: %s]", name, s.Name))
			}
		}
	}
	if text := strings.Join(asked, ", "); text != "" && !slices.Contains(t.said, "asked "+text) {
		t.said = append(t.said, "asked "+text)
		fmt.Fprintf(t.err, "the question was told to %s, to choose passages by it (--share-question=false keeps it)\n", text)
	}
	if text := strings.Join(from, " "); text != "" && !slices.Contains(t.said, text) {
		t.said = append(t.said, text)
		fmt.Fprintf(t.err, "passages: %s\n", text)
	}
}

// why is one line about a contributor that is missing.
func (t reporter) why(m fedkv.Missing) string {
	text := m.Text
	if m.Code >= fedkv.CodeModel && m.Code <= fedkv.CodeTemplate {
		text = m.Code.Text() // m.Text compares digests as the side sees it that found them to differ
	}
	who := t.name(m.Origin, m.Name)
	if m.Origin < len(t.addresses) {
		a := t.addresses[m.Origin]
		if strings.Contains(text, a.HostPort) && m.Phase == fedkv.PhaseConnect { // says itself who
			return text
		}
		if who == "" {
			who = fmt.Sprintf("peer %s at %s", a.ID.Short(), a.HostPort)
		}
	}
	if m.Phase == fedkv.PhasePrefill && m.Layer < 0 {
		return fmt.Sprintf("%s, lost before its rows could be queried: %s", who, text)
	}
	switch m.Phase {
	case fedkv.PhasePrefill:
		return fmt.Sprintf("%s, lost before its rows of layer %d came: %s", who, m.Layer, text)
	case fedkv.PhaseAnswer:
		return fmt.Sprintf("%s, lost while its rows were queried: %s", who, text)
	case fedkv.PhaseTransfer:
		return fmt.Sprintf("%s, lost when its rows of layer %d were due: %s", who, m.Layer, text)
	}
	return fmt.Sprintf("%s: %s", who, text)
}

// name is what this device's owner calls a contributor, otherwise what it calls itself.
func (t reporter) name(origin int, itself string) string {
	if origin < len(t.addresses) && t.addresses[origin].Name != "" {
		return t.addresses[origin].Name
	}
	return itself
}

// received is how many bytes of rows came over the network.
func (t reporter) received(r node.Report) (bytes int64) {
	for _, p := range r.Peers {
		if t.isPeer(p) {
			bytes += p.Bytes
		}
	}
	return bytes
}

// object prints the answer as JSON.
func (t reporter) object(w io.Writer, text, stop string, r node.Report) error {
	out := json.NewEncoder(w)
	out.SetEscapeHTML(false)
	return out.Encode(answer{text, stop, t.federation(r)})
}

// federation is what a session did, as programs read it.
func (t reporter) federation(r node.Report) federation {
	f := federation{
		layersJSON: t.layers(r),
		Session:    r.Session.String(), Regime: r.Regime.String(), Wire: t.wire.String(), Tokens: r.Layout.Total(),
		Bytes: t.received(r), SetupMS: r.SetupMS, WaitMS: r.WaitMS, SyncMS: r.SyncMS, PrefillMS: r.PrefillMS,
		TTFTMS: r.TTFTMS, DecodeMS: r.DecodeMS, Decoded: r.Decoded, Drafted: r.Drafted, Accepted: r.Accepted, Notes: r.Notes, Peers: []peerJSON{},
	}
	if e, err := t.power.End(); err == nil {
		f.Energy = &energyJSON{e.Joules, e.PerToken(r.Decoded), e.Sensor}
	}
	for _, p := range r.Peers {
		j := peerJSON{Name: t.name(p.Origin, p.Name), ID: p.ID, Tokens: p.Tokens, Rows: p.Rows, Bytes: p.Bytes, PrefillMS: p.PrefillMS, TransferMS: p.TransferMS}
		if t.isPeer(p) {
			j.ID = string(t.addresses[p.Origin].ID)
		} else {
			j.ID, j.Local = "", true
		}
		j.Asked = p.Asked
		for _, s := range p.Sources {
			j.Sources = append(j.Sources, sourceJSON{s.Name, s.Tokens})
		}
		for _, v := range p.Via {
			j.Via = append(j.Via, viaJSON{v.Name, v.Bytes})
		}
		if m := p.Missing; m != nil {
			j.Missing = &missingJSON{Code: m.Code.String(), Phase: string(m.Phase), SilentMS: p.SilentMS, Text: t.why(*m)}
			if m.Layer >= 0 {
				j.Missing.Layer = &m.Layer
			}
		}
		f.Peers = append(f.Peers, j)
	}
	f.Sources = t.sourceList(r)
	return f
}

func (t reporter) sourceList(r node.Report) (list []attendedJSON) {
	total := 0.0
	for _, s := range r.Sources {
		total += s.Weight
	}
	for _, s := range r.Sources {
		j := attendedJSON{Name: t.name(s.Number, s.Name), Document: s.Document, Local: s.Number >= len(t.addresses)}
		if !j.Local {
			j.ID = string(t.addresses[s.Number].ID)
		}
		if total > 0 {
			j.Share = s.Weight / total
		}
		list = append(list, j)
	}
	return list
}

// sources says whose rows an answer looked at.
func (t reporter) sources(r node.Report) {
	list := t.sourceList(r)
	if len(list) == 0 {
		fmt.Fprintln(t.err, "nothing is known of sources: there is no answer yet, nobody takes part in it, or their rows stay home")
		return
	}
	for _, s := range list {
		name := s.Name
		if name == "" {
			name = transport.ID(s.ID).Short()
		}
		if s.Document != "" {
			name += ": " + s.Document
		}
		fmt.Fprintf(t.err, "%3.0f %%  %s\n", 100*s.Share, name)
	}
}

// afterAnswer writes the peers' table if asked for, and the footer.
func (t reporter) afterAnswer(r node.Report, verbose bool) {
	t.lostInAnswer(r)
	if verbose {
		t.table(r)
	}
	if line := t.lost(r); line != "" {
		fmt.Fprintln(t.err, line)
	}
	fmt.Fprintln(t.err, t.footer(r))
}

// lost says in one line how many peers the answer rests on and who is missing, as in
// "2/3 peers, missing: garden-pi (timed out after 2.0 s in layer 17)"; empty if nobody is.
func (t reporter) lost(r node.Report) string {
	var who []string
	asked := 0
	for _, p := range r.Peers {
		if !t.isPeer(p) {
			continue
		}
		asked++
		m := p.Missing
		if m == nil {
			continue
		}
		name := t.name(p.Origin, m.Name)
		if name == "" {
			name = t.addresses[p.Origin].ID.Short()
		}
		who = append(who, fmt.Sprintf("%s (%s)", name, lostHow(p)))
	}
	if len(who) == 0 {
		return ""
	}
	return fmt.Sprintf("%d/%d peers, missing: %s", asked-len(who), asked, strings.Join(who, ", "))
}

// lostHow says in a few words how a peer was lost, after how long without a sign of life, and in which layer: the first
// that is not whole.
func lostHow(p node.PeerReport) string {
	m := p.Missing
	how := m.Code.String()
	switch {
	case p.SilentMS > 0:
		how = fmt.Sprintf("timed out after %.1f s", p.SilentMS/1000)
	case m.Code == fedkv.CodeDeadline:
		how = "timed out"
	case m.Code == fedkv.CodeLost && m.Phase == fedkv.PhaseConnect:
		how = "not reached"
	case m.Code == fedkv.CodeCancelled:
		how = "stopped"
	case m.Code == fedkv.CodeStopping:
		how = "shutting down"
	}
	if m.Layer >= 0 {
		how += fmt.Sprintf(" in layer %d", m.Layer)
	}
	return how
}

// footer is a line about an answer.
func (t reporter) footer(r node.Report) string {
	rate := func(tokens int, ms float64) float64 {
		if ms == 0 {
			return 0
		}
		return 1000 * float64(tokens) / ms
	}
	share := 0.0
	if r.TTFTMS > 0 {
		share = 100 * (r.WaitMS + r.SyncMS) / r.TTFTMS
	}
	present := 0
	for _, p := range r.Peers {
		if t.isPeer(p) && p.Missing == nil {
			present++
		}
	}
	return fmt.Sprintf("[ prefill %d tok %.1f t/s | decode %d tok %.1f t/s | TTFT %.1f s | peers %d/%d | recv %s | sync %.0f %%%s ]",
		r.Own, rate(r.Own, r.PrefillMS), r.Decoded, rate(r.Decoded, r.DecodeMS), r.TTFTMS/1000, present, len(t.addresses),
		bytesText(t.received(r)), share, t.energy(r))
}

// energy is what this device drew, with what divides it from what stands before it; empty where no sensor tells.
func (t reporter) energy(r node.Report) string {
	e, err := t.power.End()
	if err != nil {
		return ""
	}
	return fmt.Sprintf(" | energy %.1f J, %.2f J/tok", e.Joules, e.PerToken(r.Decoded))
}

// lostInAnswer says who went after the answer had begun; the notes say from which token on.
func (t reporter) lostInAnswer(r node.Report) {
	for _, note := range r.Notes[min(t.noted, len(r.Notes)):] {
		fmt.Fprintf(t.err, "note: %s\n", note)
	}
	for _, p := range r.Peers {
		if p.Missing != nil && p.Missing.Phase == fedkv.PhaseAnswer && !t.told[p.Origin] {
			fmt.Fprintf(t.err, "missing: %s\n", t.why(*p.Missing))
		}
	}
	if h := r.Home; h.Rounds > 0 {
		guesses := ""
		if r.Drafted > 0 {
			guesses = fmt.Sprintf(", %d of %d guesses right", r.Accepted, r.Drafted)
		}
		fmt.Fprintf(t.err, "[ home: %d round trips, %s sent, %s received, median %.0f us, 95 %% below %.0f us%s ]\n",
			h.Rounds, bytesText(h.Sent), bytesText(h.Received), h.MedianUS, h.P95US, guesses)
	}
}

func (t reporter) table(r node.Report) {
	rows := newTable(t.err, "peer", "tokens", "rows", "bytes", "prefill ms", "transfer ms", "")
	for _, p := range r.Peers {
		name, state := t.name(p.Origin, p.Name), ""
		if name == "" && t.isPeer(p) {
			name = t.addresses[p.Origin].ID.Short()
		}
		switch {
		case p.Missing != nil:
			state = "missing"
		case !t.isPeer(p):
			state = "this device"
		}
		for _, v := range p.Via {
			state = strings.TrimPrefix(fmt.Sprintf("%s, %s to %s via this device", state, bytesText(v.Bytes), v.Name), ", ")
		}
		rows.AppendRow(table.Row{name, p.Tokens, p.Rows, p.Bytes, fmt.Sprintf("%.0f", p.PrefillMS), fmt.Sprintf("%.0f", p.TransferMS), state})
	}
	rows.Render()
}

// shares is everybody who takes part in a conversation, or should.
func (t reporter) shares(shares []node.Share) {
	if len(shares) == 0 {
		fmt.Fprintln(t.err, "nobody else takes part; --peer names devices when the chat begins")
		return
	}
	rows := newTable(t.err, "peer", "tokens", "rows", "bytes", "prefill ms", "transfer ms", "")
	for _, s := range shares {
		name, state := s.Name, s.State.String()
		if name == "" && t.isPeer(s.PeerReport) {
			name = t.addresses[s.Origin].ID.Short()
		}
		switch {
		case s.Missing != nil:
			state = "missing: " + t.why(*s.Missing)
		case !t.isPeer(s.PeerReport):
			state += ", this device"
		}
		rows.AppendRow(table.Row{name, s.Tokens, s.Rows, s.Bytes, fmt.Sprintf("%.0f", s.PrefillMS), fmt.Sprintf("%.0f", s.TransferMS), state})
	}
	rows.Render()
}

// trace is what an answer waited for, in the order of time.
func (t reporter) trace(r node.Report) {
	if r.Started.IsZero() {
		fmt.Fprintln(t.err, "nothing was answered yet")
		return
	}
	rows := newTable(t.err, "step", "ms", "")
	step := func(name string, ms float64, format string, args ...any) {
		rows.AppendRow(table.Row{name, fmt.Sprintf("%.0f", ms), fmt.Sprintf(format, args...)})
	}
	step("agree", r.SetupMS, "who takes part, and which tokens are whose")
	step("wait", r.WaitMS, "for the rows of %s", count(len(r.Peers), "contributor"))
	for _, p := range r.Peers {
		if p.Rows > 0 {
			step("  "+p.Name, p.PrefillMS, "its prefill of %d tokens; then %d rows, %s, in %.0f ms", p.Tokens, p.Rows, bytesText(p.Bytes), p.TransferMS)
		}
	}
	step("place", r.SyncMS, "the rows at the sync layers of this device")
	step("prefill", r.PrefillMS, "%d own tokens; %d were in the cache, %d of them evaluated again", r.Own, r.Reused, r.Again)
	step("first token", r.TTFTMS, "after the question")
	step("decode", r.DecodeMS, "%s, on this device alone", count(r.Decoded, "token"))
	rows.Render()
	t.traceLayers(r)
}
