package transport

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/gofrs/flock"

	"fedattn/fedkv"
	"fedattn/fedkv/policy"
)

const (
	knownPeersFile = "known_peers"
	knownPeersMode = 0o600

	// maxKnownPeers bounds the devices that one device knows, and maxKnownPeersFile the file in bytes.
	maxKnownPeers     = 1024
	maxKnownPeersFile = 1 << 20

	// maxKnownAddresses bounds the addresses that are kept of one device.
	maxKnownAddresses = 8

	// watchInterval is how often the file is looked at: a removed peer is out within it.
	watchInterval = 250 * time.Millisecond
)

const knownPeersHead = `# Devices that this one is paired with; fedattn peers lists and changes them. A line that is taken out takes effect
# at once, in running nodes too.
# NAME  ID  RIGHTS (ask, contribute, both)  TRUST (rows, home)  SINCE  ADDRESS,ADDRESS or -
`

// KnownPeer is a device whose key is pinned, and what its owner may do here.
type KnownPeer struct {
	Name      string
	ID        ID
	Rights    policy.Rights
	Trust     policy.Trust
	Since     time.Time // the day of pairing, UTC
	Addresses []string  // host:port, best first; may be empty: then only mDNS finds it
}

// Policy is the peer as package policy sees it.
func (p KnownPeer) Policy() policy.Peer {
	return policy.Peer{Name: p.Name, ID: string(p.ID), Rights: p.Rights, Trust: p.Trust}
}

// KnownPeers are the devices in the known_peers file, by name.
type KnownPeers []KnownPeer

// Named finds a peer by name.
func (k KnownPeers) Named(name string) (KnownPeer, bool) {
	i := slices.IndexFunc(k, func(p KnownPeer) bool { return p.Name == name })
	if i < 0 {
		return KnownPeer{}, false
	}
	return k[i], true
}

// ByID finds a peer by its key.
func (k KnownPeers) ByID(id ID) (KnownPeer, bool) {
	i := slices.IndexFunc(k, func(p KnownPeer) bool { return p.ID == id })
	if i < 0 {
		return KnownPeer{}, false
	}
	return k[i], true
}

// Pin adds a peer, or renews what is known of the same key. A name that stands for another key is an error: whoever
// answers to a known name with a new key may be somebody else.
func (k *KnownPeers) Pin(p KnownPeer) error {
	if err := p.validate(); err != nil {
		return err
	}
	if old, taken := k.Named(p.Name); taken && old.ID != p.ID {
		return fedkv.Errorf(fedkv.CodeForbidden, "THE KEY OF %s HAS CHANGED: it is pinned as %s, and now somebody shows %s. "+
			"If the device was set up anew, run fedattn peers remove %s and pair again; if it was not, somebody poses as it. "+
			"For a second device give another name with --as", p.Name, old.ID, p.ID, p.Name)
	}
	i := slices.IndexFunc(*k, func(old KnownPeer) bool { return old.ID == p.ID })
	switch {
	case i >= 0:
		(*k)[i] = p
	case len(*k) >= maxKnownPeers:
		return fmt.Errorf("%d devices are known already: take some out with fedattn peers remove", maxKnownPeers)
	default:
		*k = append(*k, p)
	}
	return nil
}

// Remove takes a peer out, by name or ID.
func (k *KnownPeers) Remove(who string) (KnownPeer, error) {
	i := slices.IndexFunc(*k, func(p KnownPeer) bool { return p.Name == who || string(p.ID) == who })
	if i < 0 {
		return KnownPeer{}, k.unknown(who)
	}
	removed := (*k)[i]
	*k = slices.Delete(*k, i, i+1)
	return removed, nil
}

// Change lets change alter one peer, found by name or ID.
func (k *KnownPeers) Change(who string, change func(*KnownPeer)) error {
	i := slices.IndexFunc(*k, func(p KnownPeer) bool { return p.Name == who || string(p.ID) == who })
	if i < 0 {
		return k.unknown(who)
	}
	changed := (*k)[i]
	change(&changed)
	if other, taken := k.Named(changed.Name); taken && other.ID != changed.ID {
		return fmt.Errorf("there is another peer named %s: choose another name", changed.Name)
	}
	if err := changed.validate(); err != nil {
		return err
	}
	(*k)[i] = changed
	return nil
}

func (k KnownPeers) unknown(who string) error {
	if len(k) == 0 {
		return fmt.Errorf("no peer is known: pair one with fedattn invite here and fedattn join there")
	}
	var names []string
	for _, p := range k {
		names = append(names, p.Name)
	}
	slices.Sort(names)
	return fmt.Errorf("no peer is named %q; known are %s", who, strings.Join(names, ", "))
}

// CheckPeerName refuses names that could be taken for something else on a command line or in the file.
func CheckPeerName(name string) error {
	if len(name) == 0 || len(name) > fedkv.MaxName {
		return fmt.Errorf("a peer's name has 1 to %d bytes, not %d", fedkv.MaxName, len(name))
	}
	if strings.ContainsAny(name, "@:,#/\\\"'`$") || strings.HasPrefix(name, "-") ||
		strings.ContainsFunc(name, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }) {
		return fmt.Errorf("%q is not a name for a peer: letters, digits, dots, dashes and underscores make one", name)
	}
	if name == "all" {
		return errors.New(`"all" stands for all peers: choose another name`)
	}
	if _, err := ParseID(name); err == nil {
		return fmt.Errorf("%q is an ID, not a name", name)
	}
	return nil
}

// PeerNameOf makes a name that CheckPeerName takes of what a device calls itself.
func PeerNameOf(text string) string {
	name := strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("._-", r) {
			return r
		}
		return '-'
	}, text)
	name = strings.Trim(name, "-")
	for len(name) > fedkv.MaxName || CheckPeerName(name) != nil {
		if name == "" || len(name) <= fedkv.MaxName {
			return "device"
		}
		name = strings.TrimRight(strings.ToValidUTF8(name[:fedkv.MaxName], ""), "-")
	}
	return name
}

func (p KnownPeer) validate() error {
	if err := CheckPeerName(p.Name); err != nil {
		return err
	}
	if !p.ID.valid() {
		return fmt.Errorf("the peer %s has no valid ID", p.Name)
	}
	if p.Rights == 0 || p.Rights&^policy.Both != 0 || p.Trust > policy.Rows {
		return fmt.Errorf("the peer %s has unknown rights or trust", p.Name)
	}
	if len(p.Addresses) > maxKnownAddresses {
		return fmt.Errorf("the peer %s has %d addresses, at most %d are kept", p.Name, len(p.Addresses), maxKnownAddresses)
	}
	for _, a := range p.Addresses {
		if err := checkHostPort(a); err != nil {
			return err
		}
		if strings.ContainsFunc(a, func(r rune) bool { return r == ',' || unicode.IsSpace(r) || !unicode.IsPrint(r) }) {
			return fmt.Errorf("%q is not host:port", a)
		}
	}
	return nil
}

// appendText writes the file.
func (k KnownPeers) appendText(b []byte) []byte {
	b = append(b, knownPeersHead...)
	for _, p := range k {
		addresses := strings.Join(p.Addresses, ",")
		b = fmt.Appendf(b, "%s %s %v %v %s %s\n", p.Name, p.ID, p.Rights, p.Trust, p.Since.UTC().Format(time.DateOnly), cmp.Or(addresses, "-"))
	}
	return b
}

// parseKnownPeers reads the file. One bad line makes all of it useless: whoever is meant to be out must not be in
// because of a typing error.
func parseKnownPeers(text []byte) (KnownPeers, error) {
	var list KnownPeers
	number := 0
	for line := range bytes.Lines(text) {
		number++
		fields := strings.Fields(string(line))
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		p, err := parseKnownPeer(fields)
		if err == nil {
			if _, twice := list.ByID(p.ID); twice {
				err = errors.New("this ID is there twice")
			} else {
				err = list.Pin(p)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
	}
	return list, nil
}

func parseKnownPeer(fields []string) (p KnownPeer, err error) {
	if len(fields) != 6 {
		return p, fmt.Errorf("%d fields, NAME ID RIGHTS TRUST SINCE ADDRESSES are 6", len(fields))
	}
	p.Name = fields[0]
	if p.ID, err = ParseID(fields[1]); err != nil {
		return p, err
	}
	if p.Rights, err = policy.ParseRights(fields[2]); err != nil {
		return p, err
	}
	if p.Trust, err = policy.ParseTrust(fields[3]); err != nil {
		return p, err
	}
	if p.Since, err = time.Parse(time.DateOnly, fields[4]); err != nil {
		return p, fmt.Errorf("%q is not a day such as 2026-01-31", fields[4])
	}
	if fields[5] != "-" {
		p.Addresses = strings.Split(fields[5], ",")
	}
	return p, p.validate()
}

// LoadKnownPeers reads the known_peers file in dir; without one nobody is known.
func LoadKnownPeers(dir string) (KnownPeers, error) {
	list, _, err := readKnownPeers(filepath.Join(dir, knownPeersFile))
	return list, err
}

// stamp tells whether a file has changed.
type stamp struct {
	modified time.Time
	size     int64
	exists   bool
}

func stampOf(path string) stamp {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{}
	}
	return stamp{info.ModTime(), info.Size(), true}
}

func readKnownPeers(path string) (KnownPeers, stamp, error) {
	at := stampOf(path)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, at, nil
	}
	if err != nil {
		return nil, at, err
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 && runtime.GOOS != "windows" {
		return nil, at, fmt.Errorf("other users can change %s (mode %04o), and so who may ask: run `chmod 600 %s`", path, mode, path)
	}
	if info.Size() > maxKnownPeersFile {
		return nil, at, fmt.Errorf("%s has %d bytes, more than %d: it is no list of peers", path, info.Size(), maxKnownPeersFile)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, at, err
	}
	list, err := parseKnownPeers(text)
	if err != nil {
		return nil, at, fmt.Errorf("%s: %w; mend the line, or take it out", path, err)
	}
	return list, at, nil
}

// UpdateKnownPeers changes the known_peers file in dir. Processes that do so at once take turns, and whoever reads
// meanwhile sees the file before or after.
func UpdateKnownPeers(dir string, update func(*KnownPeers) error) error {
	if err := os.MkdirAll(dir, identityDirMode); err != nil {
		return fmt.Errorf("no place to keep known peers: %w", err)
	}
	path := filepath.Join(dir, knownPeersFile)
	lock := flock.New(path + ".lock")
	waiting, cancel := context.WithTimeout(context.Background(), HandshakeTimeout)
	defer cancel()
	if held, err := lock.TryLockContext(waiting, 10*time.Millisecond); err != nil || !held {
		return fmt.Errorf("another process keeps %s locked: try again when it is done", path)
	}
	defer lock.Unlock()
	list, _, err := readKnownPeers(path)
	if err != nil {
		return err
	}
	if err := update(&list); err != nil {
		return err
	}
	return replaceFile(path, list.appendText(nil), knownPeersMode)
}

// replaceFile writes a file whole or not at all.
func replaceFile(path string, content []byte, mode fs.FileMode) error {
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name()) // of no effect after the rename
	_, err = file.Write(content)
	err = errors.Join(err, file.Chmod(mode), file.Sync(), file.Close())
	if err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}

// WatchKnownPeers calls changed with what the known_peers file in dir says whenever that changes, until the context
// ends. A file that cannot be read changes nobody's rights to the better: changed gets an empty list and the error.
func WatchKnownPeers(ctx context.Context, dir string, from KnownPeers, changed func(KnownPeers, error)) {
	path := filepath.Join(dir, knownPeersFile)
	seen := stamp{} // so that what changed between loading and watching is noticed
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for last := from; ; {
		if now := stampOf(path); now != seen {
			list, at, err := readKnownPeers(path)
			seen = at
			if err != nil {
				list = nil
			}
			if err != nil || !slices.EqualFunc(list, last, KnownPeer.equal) {
				changed(list, err)
			}
			last = list
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

func (p KnownPeer) equal(o KnownPeer) bool {
	return p.Name == o.Name && p.ID == o.ID && p.Rights == o.Rights && p.Trust == o.Trust && p.Since.Equal(o.Since) &&
		slices.Equal(p.Addresses, o.Addresses)
}
