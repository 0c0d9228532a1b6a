package transport

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
)

func TestIdentityIsKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "fedattn")
	first, created, err := LoadOrCreateIdentity(dir)
	if err != nil || !created {
		t.Fatalf("the first time: created %t, %v", created, err)
	}
	again, created, err := LoadOrCreateIdentity(dir)
	if err != nil || created || again.ID() != first.ID() || !again.key().Equal(first.key()) {
		t.Errorf("the second time: %v, created %t, %v; want %v", again, created, err, first)
	}
	if runtime.GOOS != "windows" {
		for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, identityFile): 0o600} {
			info, err := os.Stat(path)
			if err != nil || info.Mode().Perm() != want {
				t.Errorf("%s has mode %v, %v; want %v", path, info.Mode().Perm(), err, want)
			}
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("the directory holds %v, %v; want the identity alone", entries, err)
	}
}

func TestIdentityRace(t *testing.T) {
	for range 20 {
		dir := filepath.Join(t.TempDir(), "fedattn")
		var mu sync.Mutex
		ids, made := map[ID]bool{}, 0
		var tasks sync.WaitGroup
		for range 8 {
			tasks.Go(func() {
				identity, created, err := LoadOrCreateIdentity(dir)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				ids[identity.ID()] = true
				if created {
					made++
				}
			})
		}
		tasks.Wait()
		if len(ids) != 1 || made != 1 {
			t.Fatalf("%d identities, made %d times", len(ids), made)
		}
	}
}

func TestBadIdentityFiles(t *testing.T) {
	ecdsaKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(ecdsaKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		text string
		mode os.FileMode
		want string
	}{
		"world-readable": {"", 0o644, "chmod 600"},
		"group-readable": {"", 0o640, "chmod 600"},
		"empty":          {"", 0o600, "no PEM block"},
		"another block":  {"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n", 0o600, `type "CERTIFICATE"`},
		"damaged":        {"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", 0o600, "damaged"},
		"ECDSA":          {string(pem.EncodeToMemory(&pem.Block{Type: pemPrivateKey, Bytes: der})), 0o600, "not Ed25519"},
		"endless":        {strings.Repeat("x", 1<<20), 0o600, "too long"},
	} {
		t.Run(name, func(t *testing.T) {
			if runtime.GOOS == "windows" && c.mode != 0o600 {
				t.Skip("no mode bits here")
			}
			dir := t.TempDir()
			path := filepath.Join(dir, identityFile)
			if err := os.WriteFile(path, []byte(c.text), c.mode); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, c.mode); err != nil { // whatever the umask
				t.Fatal(err)
			}
			_, created, err := LoadOrCreateIdentity(dir)
			t.Log(err)
			if err == nil || created || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("created %t, %v; want an error with %q and the path", created, err, c.want)
			}
			if text, err := os.ReadFile(path); err != nil || string(text) != c.text {
				t.Errorf("the file was touched: %v", err)
			}
		})
	}
	t.Run("directory", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, identityFile), 0o700); err != nil {
			t.Fatal(err)
		}
		if _, _, err := LoadOrCreateIdentity(dir); err == nil {
			t.Error("a directory was taken for an identity")
		}
	})
	t.Run("file in place of the directory", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(dir, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := LoadOrCreateIdentity(dir); err == nil {
			t.Error("a file was taken for a directory")
		}
	})
}

// No way of printing an identity shows its key.
func TestIdentityPrintsNoKey(t *testing.T) {
	identity := newIdentity(t)
	seed := identity.key().Seed()
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q", "%d"} {
		for _, value := range []any{identity, &identity, struct{ I Identity }{identity}, struct{ i Identity }{identity}, &Endpoint{config: Config{Identity: identity}}} {
			text := fmt.Sprintf(format, value)
			if strings.Contains(text, hex.EncodeToString(seed[:4])) || strings.Contains(text, fmt.Sprint(seed[:4])[1:8]) ||
				strings.Contains(text, string(seed[:8])) {
				t.Errorf("%s of %T shows the key: %s", format, value, text)
			}
		}
	}
}

func TestNewIdentity(t *testing.T) {
	a, err := NewIdentity(bytes.NewReader(make([]byte, 32)))
	if err != nil || a.ID() != zeroID {
		t.Errorf("from 32 zero bytes: %v, %v; want %s", a, err, zeroID)
	}
	if _, err := NewIdentity(bytes.NewReader(make([]byte, 31))); err == nil {
		t.Error("31 bytes of randomness were enough")
	}
	if _, err := NewIdentity(failing{}); !errors.Is(err, errFailing) {
		t.Errorf("without randomness: %v", err)
	}
	one, err := a.derive("one")
	two, err2 := a.derive("two")
	if err != nil || err2 != nil || one == two {
		t.Errorf("derived secrets are equal, %v, %v", err, err2)
	}
}

var errFailing = errors.New("no bytes")

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errFailing }
