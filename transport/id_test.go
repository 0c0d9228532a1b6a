package transport

import (
	"crypto/ed25519"
	"strings"
	"testing"

	"fedattn/fedkv"
)

// The ID of the key whose seed is 32 zero bytes, worked out by hand from the definition in another language.
const zeroID ID = "COPDSQH-GJNKJCE-4RARDM2-BV2BMKW-H4QJXAS-R25GQN7-HQCWN4P-CLQBYAS"

func TestIDVector(t *testing.T) {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	if got := identityOf(key).ID(); got != zeroID {
		t.Errorf("ID %s, want %s", got, zeroID)
	}
	if len(zeroID) != idLength || idLength > fedkv.MaxID {
		t.Errorf("an ID has %d bytes, want %d and at most %d", len(zeroID), idLength, fedkv.MaxID)
	}
	if zeroID.Short() != "COPDSQH" {
		t.Errorf("short form %s", zeroID.Short())
	}
}

func TestParseID(t *testing.T) {
	text := string(zeroID)
	for _, same := range []string{
		text,
		strings.ToLower(text),
		strings.ReplaceAll(text, "-", ""),
		strings.ReplaceAll(text, "-", " "),
		strings.NewReplacer("O", "0", "I", "1", "B", "8").Replace(text),
		" " + text + " ",
	} {
		if id, err := ParseID(same); err != nil || id != zeroID {
			t.Errorf("ParseID(%q) is %s, %v", same, id, err)
		}
	}
	for _, c := range []struct{ text, want string }{
		{"", "incomplete: 0 of its 56"},
		{text[:20], "incomplete: 18 of its 56"},
		{text + "A", "too long"},
		{strings.Replace(text, "C", "9", 1), `no character '9'`},
		{strings.Replace(text, "C", "é", 1), `no character 'é'`},
		{strings.Replace(text, "C", "\x00", 1), `no character '\x00'`},
		{strings.Replace(text, "4RARDM2", "4RARDN2", 1), "typo in 4RARDN2-BV2BMKW (groups 3 and 4 of 8)"},
	} {
		if id, err := ParseID(c.text); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("ParseID(%q) is %s, %v; want an error with %q", c.text, id, err, c.want)
		}
	}
}

// Every single wrong character is found, and nearly every swap of two neighbours.
func TestIDCheckCharacters(t *testing.T) {
	plain := []byte(strings.ReplaceAll(string(zeroID), "-", ""))
	swaps, found := 0, 0
	for i := range plain {
		for _, wrong := range []byte(idAlphabet) {
			if wrong == plain[i] {
				continue
			}
			typo := append([]byte(nil), plain...)
			typo[i] = wrong
			if id, err := ParseID(string(typo)); err == nil {
				t.Errorf("character %d as %c was taken for %s", i, wrong, id)
			}
		}
		if i > 0 && plain[i] != plain[i-1] {
			typo := append([]byte(nil), plain...)
			typo[i], typo[i-1] = typo[i-1], typo[i]
			swaps++
			if _, err := ParseID(string(typo)); err != nil {
				found++
			}
		}
	}
	if found < swaps*9/10 {
		t.Errorf("%d of %d swaps were found", found, swaps)
	}
}

// The spare bits of the last data character are zero: one hash has one ID.
func TestIDIsCanonical(t *testing.T) {
	data := []byte(strings.ReplaceAll(string(zeroID), "-", ""))
	last := idChars - 2
	for _, c := range []byte(idAlphabet) {
		data[last] = c
		data[last+1] = checkCharacter(string(data[idChars-1-idChunk : idChars-1]))
		_, err := ParseID(string(data))
		if real := strings.IndexByte(idAlphabet, c)%16 == 0; real != (err == nil) {
			t.Errorf("last data character %c: %v", c, err)
		}
	}
}

func FuzzParseID(f *testing.F) {
	f.Add(string(zeroID))
	f.Add(strings.ToLower(string(zeroID)))
	f.Add("0189-")
	f.Fuzz(func(t *testing.T, text string) {
		id, err := ParseID(text)
		if err != nil {
			return
		}
		if again, err := ParseID(string(id)); err != nil || again != id || len(id) != idLength {
			t.Errorf("%q is %q, which is %q, %v", text, id, again, err)
		}
	})
}

func TestParsePeerAddress(t *testing.T) {
	for _, hostPort := range []string{"raspberrypi.local:7000", "192.168.1.7:1", "[fe80::1%eth0]:65535", "[::1]:7000"} {
		text := string(zeroID) + "@" + hostPort
		address, err := ParsePeerAddress(" " + text + "\n")
		if err != nil || address != (PeerAddress{ID: zeroID, HostPort: hostPort}) || address.String() != text {
			t.Errorf("ParsePeerAddress(%q) is %v, %v", text, address, err)
		}
	}
	for _, c := range []struct{ text, want string }{
		{"", "no ID"},
		{"raspberrypi:7000", "no ID: write ID@host:port"},
		{string(zeroID), "no ID"},
		{"ABC@raspberrypi:7000", "incomplete"},
		{string(zeroID) + "@", `"" is not host:port`},
		{string(zeroID) + "@raspberrypi", "missing port"},
		{string(zeroID) + "@:7000", "names no host"},
		{string(zeroID) + "@raspberrypi:0", `"0" is not a port`},
		{string(zeroID) + "@raspberrypi:http", `"http" is not a port`},
		{string(zeroID) + "@raspberrypi:70000", `"70000" is not a port`},
		{string(zeroID) + "@::1:7000", "is not host:port"},
	} {
		if address, err := ParsePeerAddress(c.text); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("ParsePeerAddress(%q) is %v, %v; want an error with %q", c.text, address, err, c.want)
		}
	}
}

func TestProfiles(t *testing.T) {
	for _, p := range []Profile{LAN, WAN} {
		if got, err := ParseProfile(p.String()); err != nil || got != p {
			t.Errorf("ParseProfile(%v) is %v, %v", p, got, err)
		}
	}
	if _, err := ParseProfile("moon"); err == nil {
		t.Error("ParseProfile took moon")
	}
	// Blocks that wait to be accepted can never starve the one being read.
	if InitialConnectionWindow < (MaxIncomingBlocks+1)*InitialStreamWindow || ConnectionWindow < InitialConnectionWindow {
		t.Error("the connection's window does not cover its streams")
	}
}
