package transport

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// Identity is a device's key pair and the ID that follows from it. The zero value is not an identity;
// NewIdentity and LoadOrCreateIdentity make one. It prints as its ID, never as its key.
type Identity struct {
	id  ID
	key func() ed25519.PrivateKey // a function, because fmt looks through everything else
}

const (
	identityFile     = "identity.pem"
	identityFileMode = 0o600
	identityDirMode  = 0o700
	maxIdentityFile  = 4096 // bytes; a PKCS#8 Ed25519 key is 119 bytes of PEM
	pemPrivateKey    = "PRIVATE KEY"
)

// NewIdentity makes a new identity from 32 bytes of random.
func NewIdentity(random io.Reader) (Identity, error) {
	seed := make([]byte, ed25519.SeedSize)
	if _, err := io.ReadFull(random, seed); err != nil {
		return Identity{}, fmt.Errorf("no randomness for a new identity: %w", err)
	}
	return identityOf(ed25519.NewKeyFromSeed(seed)), nil
}

func identityOf(key ed25519.PrivateKey) Identity {
	return Identity{id: idOf(key.Public().(ed25519.PublicKey)), key: func() ed25519.PrivateKey { return key }}
}

// ID returns the name that other devices pin.
func (i Identity) ID() ID { return i.id }

// String returns the ID.
func (i Identity) String() string { return string(i.id) }

// Format prints the ID for every verb, so that no log line can show the private key.
func (i Identity) Format(f fmt.State, _ rune) { io.WriteString(f, string(i.id)) }

// Device is the ID as plain text.
func (i Identity) Device() string { return string(i.id) }

// PublicKey is what the ID is the hash of.
func (i Identity) PublicKey() ed25519.PublicKey { return i.key().Public().(ed25519.PublicKey) }

// Sign signs a message that begins with what it is for, so that no signature is good for two purposes.
func (i Identity) Sign(message []byte) []byte { return ed25519.Sign(i.key(), message) }

// DeviceOf is the ID of the holder of a public key, as plain text.
func DeviceOf(key ed25519.PublicKey) string { return string(idOf(key)) }

// derive returns 32 secret bytes for one purpose that only the holder of the identity can compute.
func (i Identity) derive(purpose string) ([32]byte, error) {
	secret, err := hkdf.Key(sha256.New, i.key().Seed(), nil, purpose, 32)
	if err != nil {
		return [32]byte{}, err
	}
	return [32]byte(secret), nil
}

// LoadOrCreateIdentity reads the identity kept in dir, and makes and keeps a new one where there is none
// (created is true then). Two processes that start together on an empty directory get the same identity:
// the file appears whole or not at all, and the first one to put it there wins.
//
// A key that other users of the machine can read is refused, with the command that mends it.
func LoadOrCreateIdentity(dir string) (identity Identity, created bool, err error) {
	path := filepath.Join(dir, identityFile)
	identity, err = readIdentity(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return identity, false, err
	}
	if err := os.MkdirAll(dir, identityDirMode); err != nil {
		return Identity{}, false, fmt.Errorf("no place to keep the identity: %w", err)
	}
	created, err = writeNewIdentity(dir, path)
	if err != nil {
		return Identity{}, false, fmt.Errorf("cannot keep a new identity: %w", err)
	}
	identity, err = readIdentity(path)
	return identity, created, err
}

func readIdentity(path string) (Identity, error) {
	file, err := os.Open(path)
	if err != nil {
		return Identity{}, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return Identity{}, err
	}
	if !info.Mode().IsRegular() {
		return Identity{}, fmt.Errorf("%s is not a file: move it away and a new identity is made", path)
	}
	// Windows has no such mode bits; a file there inherits the rights of the user's own directory.
	if mode := info.Mode().Perm(); mode&0o077 != 0 && runtime.GOOS != "windows" {
		return Identity{}, fmt.Errorf("other users can reach the private key %s (mode %04o): run `chmod 600 %s`", path, mode, path)
	}
	text, err := io.ReadAll(io.LimitReader(file, maxIdentityFile+1))
	if err != nil {
		return Identity{}, err
	}
	key, err := parseIdentity(text)
	if err != nil {
		return Identity{}, fmt.Errorf("%s holds no identity (%w): restore it from a copy, or move it away and a new identity is made, which peers must be told", path, err)
	}
	return identityOf(key), nil
}

func parseIdentity(text []byte) (ed25519.PrivateKey, error) {
	if len(text) > maxIdentityFile {
		return nil, errors.New("too long for a key")
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("no PEM block")
	}
	if block.Type != pemPrivateKey {
		return nil, fmt.Errorf("a PEM block of type %q, not %q", block.Type, pemPrivateKey)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("damaged PKCS#8")
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, errors.New("the key is not Ed25519")
	}
	return key, nil
}

// writeNewIdentity puts a new identity at path unless there is one already. A hard link, unlike a rename,
// fails when its name is taken: that makes the choice between two processes atomic.
func writeNewIdentity(dir, path string) (created bool, err error) {
	identity, err := NewIdentity(rand.Reader)
	if err != nil {
		return false, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(identity.key())
	if err != nil {
		return false, err
	}
	file, err := os.CreateTemp(dir, identityFile+".*") // created with mode 0600
	if err != nil {
		return false, err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	if err := pem.Encode(file, &pem.Block{Type: pemPrivateKey, Bytes: der}); err != nil {
		return false, err
	}
	if err := file.Sync(); err != nil {
		return false, err
	}
	switch err := os.Link(file.Name(), path); {
	case err == nil:
		return true, nil
	case errors.Is(err, fs.ErrExist):
		return false, nil
	default:
		return false, fmt.Errorf("%w (its file system must know hard links)", err)
	}
}
