package tap

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"strings"
	"testing"
	"time"

	"fedattn/fedkv"
	"fedattn/fedkv/node"
)

var session = fedkv.SessionID{1, 2, 3}

// record sends messages and a block over a tapped pair of links and returns what was recorded on the near side.
func record(t *testing.T, rows []byte, messages ...fedkv.Message) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	network := node.NewMemory()
	a, b := network.Join("a"), network.Join("b")
	accepted := make(chan node.Link, 1)
	go func() {
		l, _ := b.Accept(ctx)
		accepted <- l
	}()
	near, err := a.Dial(ctx, node.Address{ID: "b"})
	if err != nil {
		t.Fatal(err)
	}
	far := <-accepted
	var out bytes.Buffer
	recorder := NewRecorder(&out)
	tapped := recorder.Link(near)
	for _, m := range messages {
		if err := tapped.Send(ctx, m); err != nil {
			t.Fatal(err)
		}
	}
	h := fedkv.BlockHeader{Session: session, Rows: 1, Kept: 1, Types: fedkv.WireTypes{K: fedkv.F16, V: fedkv.F16}, Length: len(rows)}
	if err := far.SendBlock(ctx, h, rows); err != nil {
		t.Fatal(err)
	}
	if _, _, err := tapped.AcceptBlock(ctx, func(fedkv.BlockHeader) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if recorder.Err() != nil {
		t.Fatal(recorder.Err())
	}
	return out.Bytes()
}

func TestARecordHoldsEveryMessageAndBlock(t *testing.T) {
	rows := []byte{1, 2, 3, 4}
	out := record(t, rows, fedkv.Ping{Nonce: 7}, fedkv.Ready{Session: session, Tokens: 5})
	var kinds string
	err := Read(bytes.NewReader(out), func(e Entry) error {
		kinds += string([]byte{e.Direction, e.Kind, ' '})
		if e.Kind == Block && !bytes.Equal(e.Bytes[fedkv.BlockHeaderSize:], rows) {
			t.Errorf("rows %x, want %x", e.Bytes[fedkv.BlockHeaderSize:], rows)
		}
		return nil
	})
	if err != nil || kinds != "sm sm rb " {
		t.Errorf("entries %q, %v", kinds, err)
	}
	for i := 1; i < len(out); i++ {
		err := Read(bytes.NewReader(out[:i]), func(Entry) error { return nil })
		whole := i == 6+int(binary.BigEndian.Uint32(out[2:]))
		if err == nil && !whole && i < 30 {
			t.Errorf("a record cut at %d is whole", i)
		}
	}
}

func TestSearchFindsTextAndTokensAndNothingElse(t *testing.T) {
	secret := Text{Name: "note", Text: "the key is behind the blue bucket", Tokens: []int32{1001, 17, 30500, 42, 9}}
	if found, err := Search(bytes.NewReader(record(t, []byte{0, 0})), []Text{secret}); err != nil || len(found) != 0 {
		t.Errorf("found %v in a record without it, %v", found, err)
	}
	for name, leak := range map[string]struct {
		rows     []byte
		messages []fedkv.Message
		as       string
	}{
		"text in a message": {messages: []fedkv.Message{fedkv.Abort{Session: session, Code: fedkv.CodeInternal, Text: "the key is behind the blue bucket"}}, as: "text"},
		"text in rows":      {rows: []byte("xxbehind the blue yy"), as: "text"},
		"tokens in a plan":  {messages: []fedkv.Message{plan(t, secret.Tokens)}, as: "CBOR tokens"},
		"tokens in rows":    {rows: littleEndian(secret.Tokens[:4]), as: "32-bit little-endian tokens"},
	} {
		if leak.rows == nil {
			leak.rows = []byte{0, 0}
		}
		found, err := Search(bytes.NewReader(record(t, leak.rows, leak.messages...)), []Text{secret})
		if err != nil || len(found) == 0 || found[0].As != leak.as || found[0].Name != "note" {
			t.Errorf("%s: found %v, %v", name, found, err)
		}
	}
}

func plan(t *testing.T, prefix []int32) fedkv.Plan {
	t.Helper()
	s, err := fedkv.ParseSchedules("gather", 2)
	if err != nil {
		t.Fatal(err)
	}
	return fedkv.Plan{
		Session: session, Schedules: s, Wire: fedkv.Uniform(fedkv.WireTypes{K: fedkv.F16, V: fedkv.F16}, 2), Rows: fedkv.Selection{Kind: fedkv.RowsAll}, Positions: fedkv.Canonical,
		Prefix: prefix, MaxTokens: 10, DeadlineMS: 1000,
	}
}

func littleEndian(tokens []int32) []byte {
	var b []byte
	for _, t := range tokens {
		b = binary.LittleEndian.AppendUint32(b, uint32(t))
	}
	return b
}

func TestWhatIsNoRecordIsAnError(t *testing.T) {
	for _, text := range []string{"x", "hello world", "sm\xff\xff\xff\xff"} {
		if err := Read(strings.NewReader(text), func(Entry) error { return nil }); err == nil {
			t.Errorf("%q is a record", text)
		}
	}
	if err := Read(io.LimitReader(strings.NewReader(""), 0), func(Entry) error { return nil }); err != nil {
		t.Errorf("an empty record: %v", err)
	}
}
