package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"fedattn/fedkv"
	"fedattn/fedkv/policy"
)

func introduce(name string) Introduction {
	return Introduction{Name: name, Addresses: []string{"192.0.2.1:7843"}, Rights: policy.Ask, Trust: policy.Rows}
}

func accepting(Paired) error { return nil }

// invite opens an invitation on loopback; its outcome comes with the returned function.
func invite(t *testing.T, identity Identity, keep func(Paired) error) (Invitation, func() (Paired, error)) {
	t.Helper()
	v, err := Invite(identity, "127.0.0.1:0", func(a net.Addr) []string { return []string{a.String()} }, introduce("inviter"), keep)
	if err != nil {
		t.Fatal(err)
	}
	type outcome struct {
		Paired
		error
	}
	over := make(chan outcome, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { p, err := v.Wait(ctx); over <- outcome{p, err} }()
	t.Cleanup(cancel)
	wait := sync.OnceValue(func() outcome {
		select {
		case o := <-over:
			return o
		case <-time.After(20 * time.Second):
			cancel()
			return <-over
		}
	})
	t.Cleanup(func() { cancel(); wait() })
	return v.Invitation(), func() (Paired, error) { o := wait(); return o.Paired, o.error }
}

func TestPairing(t *testing.T) {
	a, b := newIdentity(t), newIdentity(t)
	var atA, atB Paired
	line, wait := invite(t, a, func(p Paired) error { atA = p; return nil })
	parsed, err := ParseInvitation(" " + line.Line() + "\n")
	if err != nil {
		t.Fatal(err)
	}
	got, err := Join(t.Context(), b, parsed, introduce("joiner"), func(p Paired) error { atB = p; return nil })
	if err != nil {
		t.Fatal(err)
	}
	seen, err := wait()
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != a.ID() || atB.ID != a.ID() || got.Name != "inviter" || seen.ID != b.ID() || atA.ID != b.ID() || seen.Name != "joiner" ||
		seen.Trust != policy.Rows || seen.Rights != policy.Ask || !slices.Equal(seen.Addresses, introduce("").Addresses) {
		t.Errorf("the joiner knows %+v, the inviter %+v", got, seen)
	}
	if _, err := Join(within(t, 500*time.Millisecond), newIdentity(t), parsed, introduce("third"), accepting); err == nil {
		t.Error("an invitation was good twice")
	}
}

// The line does not get into logs, and each of its characters counts.
func TestInvitationLine(t *testing.T) {
	line, err := newInvitation(newIdentity(t).ID(), strings.NewReader("sixteen constant bytes"), []string{"192.0.2.1:7844", "[2001:db8::1]:7844"})
	if err != nil {
		t.Fatal(err)
	}
	text := line.Line()
	start := len(invitationScheme) + len(line.ID) + 1
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		if shown := fmt.Sprintf(verb, line); strings.Contains(shown, text[start:start+8]) || strings.Contains(shown, "sixteen") {
			t.Errorf("%s shows the secret", verb)
		}
	}
	for i := start; i < start+secretChars-1; i++ { // the last one has one bit of the check byte and spare ones
		c := byte('A')
		if text[i] == c {
			c = 'B'
		}
		if _, err := ParseInvitation(text[:i] + string(c) + text[i+1:]); err == nil {
			t.Errorf("character %d of the secret may be wrong", i-start)
		} else if strings.Contains(err.Error(), text[start:start+8]) {
			t.Errorf("the error repeats the secret: %v", err)
		}
	}
	for _, bad := range []string{"", "x", text[:len(text)/2], text + " x", strings.Replace(text, "@", "", 1), strings.Repeat("A", 5000), text + ",nohost"} {
		if _, err := ParseInvitation(bad); err == nil {
			t.Errorf("%.40q was taken", bad)
		}
	}
}

// A wrong secret costs a try, and the third ends the invitation, for the right one too.
func TestWrongSecrets(t *testing.T) {
	line, wait := invite(t, newIdentity(t), func(Paired) error { t.Error("somebody was pinned"); return nil })
	wrong := line
	wrong.secret = func() secret { return secret{1, 2, 3} }
	for i := range InvitationTries {
		_, err := Join(t.Context(), newIdentity(t), wrong, introduce("guesser"), func(Paired) error { t.Error("pinned"); return nil })
		if !errors.Is(err, fedkv.ErrForbidden) || !strings.Contains(err.Error(), "secret is wrong") {
			t.Errorf("try %d: %v", i, err)
		}
	}
	if _, err := wait(); !errors.Is(err, ErrInvitationOver) {
		t.Errorf("the inviter: %v", err)
	}
	if _, err := Join(within(t, 500*time.Millisecond), newIdentity(t), line, introduce("late"), accepting); err == nil {
		t.Error("the invitation is still good")
	}
}

// Two wrong ones do not hurt whoever has the right one.
func TestPairingAfterWrongSecrets(t *testing.T) {
	line, wait := invite(t, newIdentity(t), accepting)
	wrong := line
	wrong.secret = func() secret { return secret{1} }
	for range InvitationTries - 1 {
		if _, err := Join(t.Context(), newIdentity(t), wrong, introduce("guesser"), accepting); err == nil {
			t.Fatal("a wrong secret was taken")
		}
	}
	b := newIdentity(t)
	if _, err := Join(t.Context(), b, line, introduce("joiner"), accepting); err != nil {
		t.Fatal(err)
	}
	if p, err := wait(); err != nil || p.ID != b.ID() {
		t.Errorf("%v, %v", p.ID, err)
	}
}

// Somebody who answers at the inviter's address with another key gets nothing.
func TestPairingWithAnImpostor(t *testing.T) {
	line, _ := invite(t, newIdentity(t), func(Paired) error { t.Error("the impostor was joined"); return nil })
	line.ID = newIdentity(t).ID()
	_, err := Join(t.Context(), newIdentity(t), line, introduce("joiner"), func(Paired) error { t.Error("pinned"); return nil })
	if !errors.Is(err, ErrWrongID) {
		t.Errorf("%v", err)
	}
}

// A proof is bound to its TLS session: what one inviter is shown cannot be shown to another with the same secret.
func TestProofIsBoundToItsSession(t *testing.T) {
	said := []byte(`{}`)
	one := pairingSession{key: []byte("exported in one session"), inviter: "A", joiner: "B"}
	for what, other := range map[string]pairingSession{
		"session": {key: []byte("exported in another one"), inviter: "A", joiner: "B"},
		"joiner":  {key: one.key, inviter: "A", joiner: "C"},
		"inviter": {key: one.key, inviter: "C", joiner: "B"},
	} {
		if slices.Equal(one.proof(false, said), other.proof(false, said)) {
			t.Errorf("a proof is good for another %s", what)
		}
	}
	if slices.Equal(one.proof(false, said), one.proof(true, said)) || slices.Equal(one.proof(false, said), one.proof(false, []byte(`{"name":1}`))) {
		t.Error("a proof is good for another role, or another introduction")
	}
}

// What the owner's list refuses ends the pairing on both sides, with the reason.
func TestPairingRefusedByTheList(t *testing.T) {
	changed := errors.New("THE KEY HAS CHANGED")
	line, wait := invite(t, newIdentity(t), accepting)
	if _, err := Join(t.Context(), newIdentity(t), line, introduce("joiner"), func(Paired) error { return changed }); err == nil || !strings.Contains(err.Error(), changed.Error()) {
		t.Errorf("the joiner: %v", err)
	}
	if _, err := wait(); err == nil || !strings.Contains(err.Error(), changed.Error()) {
		t.Errorf("the inviter: %v", err)
	}
	line, wait = invite(t, newIdentity(t), func(Paired) error { return changed })
	if _, err := Join(t.Context(), newIdentity(t), line, introduce("joiner"), func(Paired) error { t.Error("pinned"); return nil }); err == nil || !strings.Contains(err.Error(), changed.Error()) {
		t.Errorf("the joiner: %v", err)
	}
	if _, err := wait(); !errors.Is(err, changed) {
		t.Errorf("the inviter: %v", err)
	}
}

func TestKnownPeersFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	if list, err := LoadKnownPeers(dir); err != nil || len(list) != 0 {
		t.Fatalf("without a file: %v, %v", list, err)
	}
	day := time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC)
	garden := KnownPeer{"garden-pi", newIdentity(t).ID(), policy.Both, policy.Rows, day, []string{"192.0.2.7:7843", "[2001:db8::1]:7843"}}
	laptop := KnownPeer{"laptop", newIdentity(t).ID(), policy.Ask, policy.Home, day, nil}
	pin := func(p KnownPeer) error {
		return UpdateKnownPeers(dir, func(k *KnownPeers) error { return k.Pin(p) })
	}
	if err := errors.Join(pin(garden), pin(laptop)); err != nil {
		t.Fatal(err)
	}
	list, err := LoadKnownPeers(dir)
	if err != nil || !slices.EqualFunc(list, []KnownPeer{garden, laptop}, KnownPeer.equal) {
		t.Fatalf("%v, %v", list, err)
	}
	info, err := os.Stat(filepath.Join(dir, knownPeersFile))
	if err != nil || info.Mode().Perm() != knownPeersMode {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}

	impostor := garden
	impostor.ID = newIdentity(t).ID()
	if err := pin(impostor); !errors.Is(err, fedkv.ErrForbidden) || !strings.Contains(err.Error(), "HAS CHANGED") {
		t.Errorf("another key under a known name: %v", err)
	}
	garden.Name, garden.Trust = "allotment", policy.Home // the same key again renews what is known
	if err := pin(garden); err != nil {
		t.Fatal(err)
	}
	if list, _ = LoadKnownPeers(dir); len(list) != 2 || list[0].Name != "allotment" {
		t.Errorf("%v", list)
	}
	if err := UpdateKnownPeers(dir, func(k *KnownPeers) error {
		return k.Change("laptop", func(p *KnownPeer) { p.Name = "allotment" })
	}); err == nil {
		t.Error("two peers have one name")
	}
	if err := UpdateKnownPeers(dir, func(k *KnownPeers) error { _, err := k.Remove(string(laptop.ID)); return err }); err != nil {
		t.Error(err)
	}
	if list, _ = LoadKnownPeers(dir); len(list) != 1 {
		t.Errorf("%v", list)
	}
}

// Processes that change the list at once lose nothing of each other's.
func TestKnownPeersTakeTurns(t *testing.T) {
	dir := t.TempDir()
	var changing sync.WaitGroup
	for i := range 8 {
		p := KnownPeer{fmt.Sprintf("peer%d", i), newIdentity(t).ID(), policy.Ask, policy.Home, time.Now(), nil}
		changing.Go(func() {
			if err := UpdateKnownPeers(dir, func(k *KnownPeers) error { return k.Pin(p) }); err != nil {
				t.Error(err)
			}
		})
	}
	changing.Wait()
	if list, err := LoadKnownPeers(dir); err != nil || len(list) != 8 {
		t.Errorf("%d peers, %v", len(list), err)
	}
}

func TestKnownPeersRefuses(t *testing.T) {
	good := "garden " + string(newIdentity(t).ID()) + " both rows 2026-01-31 -"
	fields := strings.Fields(good)
	with := func(i int, text string) string {
		f := slices.Clone(fields)
		f[i] = text
		return strings.Join(f, " ")
	}
	// another check character than the right one, whatever that is
	broken := fields[1][:len(fields[1])-1] + "A"
	if broken == fields[1] {
		broken = fields[1][:len(fields[1])-1] + "B"
	}
	for what, text := range map[string]string{
		"a field too few": strings.Join(fields[:5], " "), "a name that is an ID": with(0, fields[1]), "all": with(0, "all"), "a flag": with(0, "-x"),
		"a broken ID": with(1, broken), "a right": with(2, "everything"), "a trust": with(3, "blind"), "a day": with(4, "yesterday"),
		"an address": with(5, "host"), "twice": good + "\n" + with(0, "other"), "a name twice": good + "\n" + with(1, string(newIdentity(t).ID())),
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, knownPeersFile), []byte("# list\n\n"+text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if list, err := LoadKnownPeers(dir); err == nil || !strings.Contains(err.Error(), "line ") || len(list) > 0 {
			t.Errorf("%s: %v, %v", what, list, err)
		}
	}
	dir := t.TempDir()
	path := filepath.Join(dir, knownPeersFile)
	if err := errors.Join(os.WriteFile(path, []byte(good), 0o600), os.Chmod(path, 0o666)); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadKnownPeers(dir); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a list that others can change: %v", err)
	}
}

func TestPeerNameOf(t *testing.T) {
	for text, want := range map[string]string{
		"garden-pi": "garden-pi", "Jo's laptop": "Jo-s-laptop", "": "device", "@@": "device", "all": "device", "--x": "x",
		strings.Repeat("ü", 60): strings.Repeat("ü", 32),
	} {
		if got := PeerNameOf(text); got != want || CheckPeerName(got) != nil {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// A removed peer is noticed, and a list that cannot be read has nobody in it.
func TestWatchKnownPeers(t *testing.T) {
	dir := t.TempDir()
	p := KnownPeer{"garden", newIdentity(t).ID(), policy.Both, policy.Rows, time.Now(), nil}
	type state struct {
		peers int
		err   bool
	}
	states := make(chan state, 8)
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan struct{})
	go func() {
		defer close(over)
		WatchKnownPeers(ctx, dir, nil, func(k KnownPeers, err error) { states <- state{len(k), err != nil} })
	}()
	next := func(want state) {
		t.Helper()
		select {
		case got := <-states:
			if got != want {
				t.Errorf("%+v, want %+v", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("nothing was noticed")
		}
	}
	if err := UpdateKnownPeers(dir, func(k *KnownPeers) error { return k.Pin(p) }); err != nil {
		t.Fatal(err)
	}
	next(state{peers: 1})
	if err := os.WriteFile(filepath.Join(dir, knownPeersFile), []byte("nonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	next(state{err: true})
	if err := os.Remove(filepath.Join(dir, knownPeersFile)); err != nil {
		t.Fatal(err)
	}
	if err := UpdateKnownPeers(dir, func(k *KnownPeers) error { return k.Pin(p) }); err != nil {
		t.Fatal(err)
	}
	next(state{peers: 1})
	cancel()
	<-over
}

// Disconnect ends every connection of a peer, with the reason, and nobody else's.
func TestDisconnect(t *testing.T) {
	a, b, c := listenLoopback(t, Config{}), listenLoopback(t, Config{}), listenLoopback(t, Config{})
	fromA, _ := connect(t, a, b)
	fromC, _ := connect(t, c, b)
	b.Disconnect(a.ID(), fedkv.CodeForbidden, "removed")
	<-fromA.Context().Done()
	if err := fromA.Err(); !errors.Is(err, fedkv.ErrForbidden) || !strings.Contains(err.Error(), "removed") {
		t.Errorf("it ended with %v", err)
	}
	if _, err := fromC.Ping(within(t, 5*time.Second)); err != nil {
		t.Errorf("another peer: %v", err)
	}
}
