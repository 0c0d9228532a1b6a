package fedkv

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
)

var (
	sampleSession     = SessionID{0x5e, 0x55, 0x10, 0x4, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	sampleFingerprint = Fingerprint{
		Architecture: "llama",
		Shape:        Digest{1},
		Rope:         Digest{2},
		Tokenizer:    Digest{3},
		Template:     Digest{4},
		Weights:      Digest{5},
		Layers:       30,
		ContextTrain: 8192,
	}
	sampleHello = Hello{
		Protocol: Protocol,
		Name:     "käthe's pi",
		Engine:   "0c1e57098",
		Model:    sampleFingerprint,
		Types:    []Type{Q8_0, F16, Q4_0},
		Role:     RolePublisher,
		Canary:   sampleCanary,
	}
)

func sampleSchedules(spec string, layers int) Schedules {
	s, err := ParseSchedules(spec, layers)
	if err != nil {
		panic(err)
	}
	return s
}

// samples is one message of each type, by the name of its golden in testdata/wire.
func samples() map[string]Message {
	welcome := sampleHello.Welcome("the peer runs another quantisation of the same model")
	welcome.Role = RoleContributor
	return map[string]Message{
		"hello":   sampleHello,
		"welcome": welcome,
		"refuse":  Refuse{CodeTokenizer, "the models' tokenizers differ: ours is 1a2b3c4d and theirs is 99aabbcc"},
		"plan-gather": Plan{
			Session:    sampleSession,
			Origin:     1,
			Schedules:  sampleSchedules("gather", 6),
			Wire:       Uniform(WireTypes{Q8_0, Q4_0}, 6),
			Rows:       Selection{Kind: RowsAll},
			Positions:  Canonical,
			Prefix:     []Token{1, 9690, 198, 2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28},
			MaxTokens:  2048,
			DeadlineMS: 60000,
		},
		"plan-lockstep": Plan{
			Session:    sampleSession,
			Origin:     0,
			Schedules:  sampleSchedules("contributors=2-3;publisher=2-", 30),
			Wire:       Uniform(WireTypes{Q4_0 | Centred | Hadamard, Q4_0}, 30).With(2, WireTypes{F16, F16}),
			Rows:       Selection{RowsNorm, 77, []Share{2500}},
			Positions:  InPlace,
			Prefix:     []Token{1},
			MaxTokens:  512,
			DeadlineMS: 5000,
		},
		"ready": Ready{sampleSession, 311},
		"commit": Commit{sampleSession, 32, []Participant{
			{0, "FEDATTN-AAAA", "", "attic", 32, 311},
			{2, "FEDATTN-CCCC", "192.168.1.17:4711", "kitchen", 343, 77},
			{3, "FEDATTN-DDDD", "", "desk", 420, 19},
		}, nil},
		"join":     Join{sampleSession, 2},
		"relay":    Relay{sampleSession, 0, 2, RelayOpen, Nonce{0xa1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}, 0, ""},
		"done":     Done{sampleSession, 9330, 4118400, 812.5, 95.25},
		"abort":    Abort{sampleSession, CodeMemory, ""},
		"receipt":  Receipt{sampleSession, 311, 30, 4118400, []int{1}},
		"ping":     Ping{0xfedcba9876543210, true},
		"waiting":  Waiting{sampleSession, 2, 12500},
		"fetch":    Fetch{Protocol},
		"sources":  Sources{sampleSession, []Source{{"", 9}, {"2026-06 log", 250}, {"seeds.csv", 52}}},
		"withdraw": Withdraw{sampleSession, "its owner has withdrawn a document"},
		"plan-question": Plan{
			Session:    sampleSession,
			Origin:     1,
			Schedules:  sampleSchedules("gather", 6),
			Wire:       Uniform(WireTypes{Q8_0, Q4_0}, 6),
			Rows:       Selection{Kind: RowsAll},
			Positions:  Canonical,
			Prefix:     []Token{1},
			MaxTokens:  2048,
			DeadlineMS: 60000,
			Question:   "When were the beans sown?",
			Budget:     1024,
		},
		"queries": Queries{sampleSession, 1, []LayerQuery{{2, []byte{0, 0x3c, 0, 0xc0}}, {300, []byte{0, 0, 0xff, 0x7b}}}},
	}
}

// frameOf appends m and takes the frame apart again.
func frameOf(t testing.TB, m Message) (MessageType, []byte) {
	t.Helper()
	frame, err := AppendMessage(nil, m)
	if err != nil {
		t.Fatalf("%T: %v", m, err)
	}
	typ, n, err := ParseFrameHeader(frame[:FrameHeaderSize])
	if err != nil {
		t.Fatalf("%T: %v", m, err)
	}
	if n != len(frame)-FrameHeaderSize {
		t.Fatalf("%T: the header says %d bytes of body, there are %d", m, n, len(frame)-FrameHeaderSize)
	}
	return typ, frame[FrameHeaderSize:]
}

func TestMessagesComeBackAsTheyWere(t *testing.T) {
	seen := map[MessageType]bool{}
	for name, m := range samples() {
		typ, body := frameOf(t, m)
		seen[typ] = true
		got, err := ParseMessage(typ, body)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !reflect.DeepEqual(got, m) {
			t.Errorf("%s:\n got %+v\nwant %+v", name, got, m)
		}
	}
	for typ := range bodies {
		if !seen[typ] {
			t.Errorf("no sample of %v", typ)
		}
	}
	if len(bodies) != len(messageNames)-1 {
		t.Errorf("%d bodies, %d names", len(bodies), len(messageNames)-1)
	}
}

// Nobody missing, no prefix: lists are often nil on the way out, and never null on the wire.
func TestEmptyListsComeBack(t *testing.T) {
	for _, m := range []Message{
		Receipt{Session: sampleSession, Tokens: 7, Layers: 6, Bytes: 100},
		Plan{
			Session: sampleSession, Schedules: sampleSchedules("none", 6), Wire: Uniform(WireTypes{Q8_0, Q4_0}, 6), Rows: Selection{Kind: RowsAll},
			Positions: Canonical,
			MaxTokens: 1, DeadlineMS: 1,
		},
	} {
		frame, err := AppendMessage(nil, m)
		if err != nil {
			t.Fatal(err)
		}
		back, err := ParseMessage(m.messageType(), frame[FrameHeaderSize:])
		if err != nil {
			t.Fatalf("%v: %v", m.messageType(), err)
		}
		again, err := AppendMessage(nil, back)
		if err != nil || !bytes.Equal(again, frame) {
			t.Errorf("%v comes back as %+v (%v)", m.messageType(), back, err)
		}
	}
}

func TestAppendMessageKeepsWhatWasThere(t *testing.T) {
	b, err := AppendMessage([]byte("before"), Ping{Nonce: 7})
	if err != nil || !strings.HasPrefix(string(b), "before") {
		t.Fatalf("got %q, %v", b, err)
	}
}

func TestNoTruncatedBodyIsAMessage(t *testing.T) {
	for name, m := range samples() {
		typ, body := frameOf(t, m)
		for n := range len(body) {
			if got, err := ParseMessage(typ, body[:n]); !errors.Is(err, ErrProtocol) {
				t.Fatalf("%s cut to %d of %d bytes: got %+v, %v", name, n, len(body), got, err)
			}
		}
		if _, err := ParseMessage(typ, append(bytes.Clone(body), 0)); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s with a byte too many: got %v, want ErrProtocol", name, err)
		}
	}
}

// A later version may add keys to any message, and types of messages.
func TestUnknownKeysAndTypesAreSkipped(t *testing.T) {
	for name, m := range samples() {
		typ, body := frameOf(t, m)
		var keys map[int]any
		if err := cbor.Unmarshal(body, &keys); err != nil {
			t.Fatal(err)
		}
		keys[99] = map[int]any{1: []int{1, 2, 3}, 2: "later", 3: 1.5}
		keys[-1] = []byte{1}
		longer, err := encMode.Marshal(keys)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseMessage(typ, longer)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !reflect.DeepEqual(got, m) {
			t.Errorf("%s:\n got %+v\nwant %+v", name, got, m)
		}
	}
	for _, typ := range []MessageType{0, 18, 999, 65535} {
		if m, err := ParseMessage(typ, []byte("anything")); m != nil || err != nil {
			t.Errorf("type %d: got %v, %v", typ, m, err)
		}
	}
}

// A Hello of another version is accepted whatever it holds, so that it can be refused for its version.
func TestHelloOfAnotherProtocol(t *testing.T) {
	body, err := encMode.Marshal(map[int]any{1: 7, 2: 42, 4: "all different"})
	if err != nil {
		t.Fatal(err)
	}
	m, err := ParseMessage(MessageHello, body)
	if err != nil || !reflect.DeepEqual(m, Hello{Protocol: 7}) {
		t.Fatalf("got %+v, %v", m, err)
	}
	if err := sampleHello.Compatible(m.(Hello)); !errors.Is(err, ErrVersion) {
		t.Errorf("got %v, want ErrVersion", err)
	}
}

func TestMalformedCBORIsRefused(t *testing.T) {
	nonce := func(value string) string { return "a2 01 " + value + " 02 f4" }
	deep := strings.Repeat("81", 20) + "00"
	for name, body := range map[string]string{
		"nothing":                   "",
		"an array":                  "82 01 f4",
		"a number":                  "07",
		"null for the body":         "f6",
		"null for a field":          nonce("f6"),
		"undefined for a field":     nonce("f7"),
		"a simple value":            nonce("e5"),
		"text for a number":         nonce("61 31"),
		"a float for a number":      nonce("f9 3c00"),
		"a negative number":         nonce("20"),
		"a tag":                     nonce("c0 00"),
		"a self-described tag":      "d9 d9f7 a2 01 00 02 f4",
		"a bignum":                  nonce("c2 41 01"),
		"the same key twice":        "a3 01 00 01 00 02 f4",
		"a map without end":         "bf 01 00 02 f4 ff",
		"a string without end":      "a3 01 00 02 f4 09 7f 61 61 ff",
		"a reserved head":           nonce("1c"),
		"nested too deeply":         "a3 01 00 02 f4 09" + deep,
		"a map that is too long":    "a1 09 b9 ffff",
		"an array that is too long": "a1 09 9a ffffffff",
		"a string that is too long": "a1 09 5b ffffffffffffffff",
		"a float that is NaN":       "a3 01 00 02 f4 09 f9 7e00",
		"a float that is infinite":  "a3 01 00 02 f4 09 f9 7c00",
	} {
		raw := unhex(t, strings.ReplaceAll(body, " ", ""))
		if m, err := ParseMessage(MessagePing, raw); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: got %+v, %v, want ErrProtocol", name, m, err)
		}
	}
	if m, err := ParseMessage(MessagePing, unhex(t, "a20107"+"02f5")); err != nil || m != (Ping{7, true}) {
		t.Errorf("a good one: got %+v, %v", m, err)
	}
}

// Fixed strings have exactly their length: the library alone would pad and cut.
func TestFixedStringsHaveTheirLength(t *testing.T) {
	for name, session := range map[string]any{
		"short":    make([]byte, 15),
		"long":     bytes.Repeat([]byte{1}, 17),
		"an array": []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16},
		"text":     "0123456789abcdef",
		"zeros":    make([]byte, 16),
	} {
		body, err := encMode.Marshal(map[int]any{1: session, 2: 5})
		if err != nil {
			t.Fatal(err)
		}
		if m, err := ParseMessage(MessageReady, body); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: got %+v, %v", name, m, err)
		}
	}
}

// with is a copy of a sample with one thing changed.
func with[T Message](name string, change func(*T)) Message {
	m := samples()[name].(T)
	change(&m)
	return m
}

// What validate refuses can neither be sent nor received.
func TestInvalidMessagesAreRefusedBothWays(t *testing.T) {
	for name, m := range map[string]Message{
		"hello without a name":          with("hello", func(m *Hello) { m.Name = "" }),
		"hello with a long name":        with("hello", func(m *Hello) { m.Name = strings.Repeat("x", MaxName+1) }),
		"hello with a line feed":        with("hello", func(m *Hello) { m.Name = "a\nb" }),
		"hello with an escape":          with("hello", func(m *Hello) { m.Name = "\x1b[31mred" }),
		"hello that runs right to left": with("hello", func(m *Hello) { m.Name = "abc\u202ecba" }),
		"hello without an engine":       with("hello", func(m *Hello) { m.Engine = "" }),
		"hello without types":           with("hello", func(m *Hello) { m.Types = nil }),
		"hello with type 0":             with("hello", func(m *Hello) { m.Types = []Type{F16, 0} }),
		"hello with a type twice":       with("hello", func(m *Hello) { m.Types = []Type{F16, F16} }),
		"hello with many types":         with("hello", func(m *Hello) { m.Types = ascendingTypes(MaxTypes + 1) }),
		"hello without a role":          with("hello", func(m *Hello) { m.Role = 0 }),
		"hello with an unknown role":    with("hello", func(m *Hello) { m.Role = 3 }),
		"hello with half a canary":      with("hello", func(m *Hello) { m.Canary = m.Canary[:8] }),
		"hello with a canary of NaN":    with("hello", func(m *Hello) { m.Canary = bytes.Repeat([]byte{0xff}, len(m.Canary)) }),
		"hello without architecture":    with("hello", func(m *Hello) { m.Model.Architecture = "" }),
		"hello without layers":          with("hello", func(m *Hello) { m.Model.Layers = 0 }),
		"hello with many layers":        with("hello", func(m *Hello) { m.Model.Layers = MaxLayers + 1 }),
		"hello, context below zero":     with("hello", func(m *Hello) { m.Model.ContextTrain = -1 }),
		"welcome of another protocol":   with("welcome", func(m *Welcome) { m.Protocol = 2 }),
		"welcome with a long note":      with("welcome", func(m *Welcome) { m.Note = strings.Repeat("x", MaxText+1) }),
		"welcome without a name":        with("welcome", func(m *Welcome) { m.Name = "" }),
		"relay to oneself":              with("relay", func(m *Relay) { m.To = 0 }),
		"relay to an earlier one":       with("relay", func(m *Relay) { m.From, m.To = 3, 2 }),
		"relay to the publisher":        with("relay", func(m *Relay) { m.To = MaxParticipants - 1 }),
		"relay without a session":       with("relay", func(m *Relay) { m.Session = SessionID{} }),
		"relay in no state":             with("relay", func(m *Relay) { m.State = 0 }),
		"relay in state 4":              with("relay", func(m *Relay) { m.State = 4 }),
		"relay open without a nonce":    with("relay", func(m *Relay) { m.Nonce = Nonce{} }),
		"relay ask with a nonce":        with("relay", func(m *Relay) { m.State = RelayAsk }),
		"relay open with a code":        with("relay", func(m *Relay) { m.Code = CodeLost }),
		"relay open with a text":        with("relay", func(m *Relay) { m.Text = "why" }),
		"relay end without a code":      with("relay", func(m *Relay) { m.State, m.Nonce = RelayEnd, Nonce{} }),
		"refuse without a code":         with("refuse", func(m *Refuse) { m.Code = 0 }),
		"refuse with a long text":       with("refuse", func(m *Refuse) { m.Text = strings.Repeat("x", MaxText+1) }),
		"refuse with a tab":             with("refuse", func(m *Refuse) { m.Text = "a\tb" }),
		"plan without a session":        with("plan-gather", func(m *Plan) { m.Session = SessionID{} }),
		"plan for origin -1":            with("plan-gather", func(m *Plan) { m.Origin = -1 }),
		"plan for origin 63":            with("plan-gather", func(m *Plan) { m.Origin = MaxParticipants - 1 }),
		"plan without layers":           with("plan-gather", func(m *Plan) { m.Schedules = Schedules{} }),
		"plan with type 0":              with("plan-gather", func(m *Plan) { m.Wire = m.Wire.With(5, WireTypes{0, F16}) }),
		"plan with type 7":              with("plan-gather", func(m *Plan) { m.Wire = m.Wire.With(0, WireTypes{F16, 7}) }),
		"plan with f16+h":               with("plan-gather", func(m *Plan) { m.Wire = m.Wire.With(3, WireTypes{F16 | Hadamard, F16}) }),
		"plan with types of 5 layers":   with("plan-gather", func(m *Plan) { m.Wire = Uniform(WireTypes{F16, F16}, 5) }),
		"plan without rows":             with("plan-gather", func(m *Plan) { m.Rows = Selection{} }),
		"plan with rows of kind 9":      with("plan-gather", func(m *Plan) { m.Rows = Selection{9, 0, []Share{1}} }),
		"plan with a share of all":      with("plan-gather", func(m *Plan) { m.Rows.Shares = []Share{1} }),
		"plan with shares of 5 layers":  with("plan-gather", func(m *Plan) { m.Rows = Selection{RowsNorm, 0, slices.Repeat([]Share{1}, 5)} }),
		"plan with many shares":         with("plan-gather", func(m *Plan) { m.Rows = Selection{RowsNorm, 0, slices.Repeat([]Share{1}, MaxRowShares+1)} }),
		"plan with a share of 0":        with("plan-gather", func(m *Plan) { m.Rows = Selection{RowsNorm, 0, []Share{0}} }),
		"plan with a share of 1.0001":   with("plan-gather", func(m *Plan) { m.Rows = Selection{RowsNorm, 0, []Share{10001}} }),
		"plan with half as private":     with("plan-gather", func(m *Plan) { m.Rows = Selection{RowsPrivate, 0, []Share{5000}} }),
		"plan without positions":        with("plan-gather", func(m *Plan) { m.Positions = 0 }),
		"plan with positions 3":         with("plan-gather", func(m *Plan) { m.Positions = 3 }),
		"plan, canonical in lockstep":   with("plan-lockstep", func(m *Plan) { m.Positions = Canonical }),
		"plan with a long prefix":       with("plan-gather", func(m *Plan) { m.Prefix = make([]Token, MaxPrefix+1) }),
		"plan with token -1":            with("plan-gather", func(m *Plan) { m.Prefix = []Token{1, -1} }),
		"plan for no tokens":            with("plan-gather", func(m *Plan) { m.MaxTokens = 0 }),
		"plan for many tokens":          with("plan-gather", func(m *Plan) { m.MaxTokens = MaxTokens + 1 }),
		"plan without a deadline":       with("plan-gather", func(m *Plan) { m.DeadlineMS = 0 }),
		"plan for two days":             with("plan-gather", func(m *Plan) { m.DeadlineMS = 2 * MaxDeadlineMS }),
		"plan with a long question":     with("plan-question", func(m *Plan) { m.Question = strings.Repeat("x", MaxQuestion+1) }),
		"plan with no text as question": with("plan-question", func(m *Plan) { m.Question = "\xff" }),
		"plan with a budget beyond all": with("plan-question", func(m *Plan) { m.Budget = m.MaxTokens + 1 }),
		"plan with a budget below zero": with("plan-question", func(m *Plan) { m.Budget = -1 }),
		"sources of nothing":            with("sources", func(m *Sources) { m.Documents = nil }),
		"sources of too many":           with("sources", func(m *Sources) { m.Documents = slices.Repeat(m.Documents[:1], MaxSources+1) }),
		"sources without tokens":        with("sources", func(m *Sources) { m.Documents[1].Tokens = 0 }),
		"sources with a long name":      with("sources", func(m *Sources) { m.Documents[1].Name = strings.Repeat("x", MaxSourceName+1) }),
		"sources with a line break":     with("sources", func(m *Sources) { m.Documents[1].Name = "a\nb" }),
		"sources without a session":     with("sources", func(m *Sources) { m.Session = SessionID{} }),
		"withdraw without a session":    with("withdraw", func(m *Withdraw) { m.Session = SessionID{} }),
		"withdraw with a long text":     with("withdraw", func(m *Withdraw) { m.Text = strings.Repeat("x", MaxText+1) }),
		"ready without tokens":          with("ready", func(m *Ready) { m.Tokens = 0 }),
		"ready with many tokens":        with("ready", func(m *Ready) { m.Tokens = MaxTokens + 1 }),
		"ready without a session":       with("ready", func(m *Ready) { m.Session = SessionID{} }),
		"commit of nobody":              with("commit", func(m *Commit) { m.Roster = nil }),
		"commit of too many":            with("commit", func(m *Commit) { m.Roster = largestRoster(MaxParticipants + 1) }),
		"commit out of order":           with("commit", func(m *Commit) { m.Roster[0].Origin = 2 }),
		"commit with origin 64":         with("commit", func(m *Commit) { m.Roster[2].Origin = MaxParticipants }),
		"commit with a gap":             with("commit", func(m *Commit) { m.Roster[1].Offset++ }),
		"commit with an overlap":        with("commit", func(m *Commit) { m.Roster[2].Offset-- }),
		"commit off the prefix":         with("commit", func(m *Commit) { m.Prefix++ }),
		"commit, prefix below zero":     with("commit", func(m *Commit) { m.Prefix = -1 }),
		"commit with a long prefix":     with("commit", func(m *Commit) { m.Prefix = MaxPrefix + 1 }),
		"commit of an empty segment":    with("commit", func(m *Commit) { m.Roster[2].Tokens = 0 }),
		"commit without an id":          with("commit", func(m *Commit) { m.Roster[1].ID = "" }),
		"commit without a name":         with("commit", func(m *Commit) { m.Roster[1].Name = "" }),
		"commit with a long address":    with("commit", func(m *Commit) { m.Roster[1].Addr = strings.Repeat("x", MaxAddr+1) }),
		"commit of too many tokens":     with("commit", func(m *Commit) { m.Roster[2].Tokens = MaxTokens }),
		"join of origin -1":             with("join", func(m *Join) { m.Origin = -1 }),
		"join of origin 63":             with("join", func(m *Join) { m.Origin = MaxParticipants - 1 }),
		"done with rows below zero":     with("done", func(m *Done) { m.Rows = -1 }),
		"done with bytes below zero":    with("done", func(m *Done) { m.Bytes = -1 }),
		"done, prefill NaN":             with("done", func(m *Done) { m.PrefillMS = math.NaN() }),
		"done, prefill infinite":        with("done", func(m *Done) { m.PrefillMS = math.Inf(1) }),
		"done, transfer below zero":     with("done", func(m *Done) { m.TransferMS = -1 }),
		"abort without a code":          with("abort", func(m *Abort) { m.Code = 0 }),
		"abort without a session":       with("abort", func(m *Abort) { m.Session = SessionID{} }),
		"receipt out of order":          with("receipt", func(m *Receipt) { m.Missing = []int{2, 1} }),
		"receipt with a repetition":     with("receipt", func(m *Receipt) { m.Missing = []int{1, 1} }),
		"receipt, origin -1":            with("receipt", func(m *Receipt) { m.Missing = []int{-1} }),
		"receipt, origin 63":            with("receipt", func(m *Receipt) { m.Missing = []int{MaxParticipants - 1} }),
		"receipt, layers below zero":    with("receipt", func(m *Receipt) { m.Layers = -1 }),
		"receipt, bytes below zero":     with("receipt", func(m *Receipt) { m.Bytes = -1 }),
		"queries of no layer":           with("queries", func(m *Queries) { m.Layers = nil }),
		"queries of no head":            with("queries", func(m *Queries) { m.Heads = 0 }),
		"queries of many heads":         with("queries", func(m *Queries) { m.Heads = MaxRowElements + 1 }),
		"queries of layer 512":          with("queries", func(m *Queries) { m.Layers[1].Layer = MaxLayers }),
		"queries of a layer twice":      with("queries", func(m *Queries) { m.Layers[0].Layer = 300 }),
		"queries without vectors":       with("queries", func(m *Queries) { m.Layers[1].Vectors = nil }),
		"queries with half an element":  with("queries", func(m *Queries) { m.Layers[1].Vectors = make([]byte, 3) }),
		"queries that are infinite":     with("queries", func(m *Queries) { m.Layers[1].Vectors = []byte{0, 0x7c} }),
		"queries of many bytes":         with("queries", func(m *Queries) { m.Layers[1].Vectors = make([]byte, MaxQueryBytes-2) }),
		"queries of many layers":        with("queries", func(m *Queries) { m.Layers = largestQueries(MaxQueryLayers + 1) }),
		"receipt, many tokens":          with("receipt", func(m *Receipt) { m.Tokens = MaxTokens + 1 }),
	} {
		if _, err := AppendMessage(nil, m); CodeOf(err) != CodeInternal {
			t.Errorf("%s: sent: got %v, want an internal error", name, err)
		}
		body, err := cbor.Marshal(wireForm(m))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParseMessage(m.messageType(), body); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: received: got %+v, %v, want ErrProtocol", name, got, err)
		}
	}
}

func ascendingTypes(n int) []Type {
	list := make([]Type, n)
	for i := range list {
		list[i] = Type(i + 1)
	}
	return list
}

func largestRoster(n int) []Participant {
	roster := make([]Participant, n)
	offset := MaxPrefix
	for i := range roster {
		roster[i] = Participant{
			i, strings.Repeat("I", MaxID), strings.Repeat("a", MaxAddr), strings.Repeat("n", MaxName), offset, (MaxTokens - MaxPrefix) / MaxParticipants,
		}
		offset += roster[i].Tokens
	}
	return roster
}

func largestQueries(n int) []LayerQuery {
	list := make([]LayerQuery, n)
	for i := range list {
		list[i] = LayerQuery{MaxLayers - n + i, make([]byte, MaxQueryBytes/MaxQueryLayers)}
	}
	return list
}

func TestPlanOfTwoModelsIsNotSent(t *testing.T) {
	seven, err := NewSchedule(7)
	if err != nil {
		t.Fatal(err)
	}
	m := with("plan-gather", func(m *Plan) { m.Schedules.Contributors = seven })
	if _, err := AppendMessage(nil, m); CodeOf(err) != CodeInternal {
		t.Errorf("got %v, want an internal error", err)
	}
}

func TestTextThatIsNotUTF8IsRefused(t *testing.T) {
	if m, err := ParseMessage(MessageRefuse, unhex(t, "a201010261ff")); !errors.Is(err, ErrProtocol) {
		t.Errorf("got %+v, %v, want ErrProtocol", m, err)
	}
}

// Layers of a schedule ascend strictly, so that there is one way to write it.
func TestPlanRefusesUnorderedLayers(t *testing.T) {
	for _, list := range [][]int{{1, 0}, {1, 1}, {0, 6}, {-1}, {math.MaxInt32}} {
		plan := wireForm(samples()["plan-gather"]).(planBody)
		plan.Publisher = list
		body, err := encMode.Marshal(plan)
		if err != nil {
			t.Fatal(err)
		}
		if m, err := ParseMessage(MessagePlan, body); !errors.Is(err, ErrProtocol) {
			t.Errorf("%v: got %+v, %v", list, m, err)
		}
	}
}

// The limits of the fields fit inside the limit of the frame: no valid message is too long to send.
func TestTheLargestMessagesFit(t *testing.T) {
	all := sampleSchedules("all", MaxLayers)
	hello := sampleHello
	hello.Name, hello.Engine, hello.Model.Architecture = strings.Repeat("n", MaxName), strings.Repeat("e", MaxName), strings.Repeat("a", MaxName)
	hello.Types, hello.Protocol = ascendingTypes(MaxTypes), Protocol
	text := strings.Repeat("x", MaxText)
	missing := make([]int, MaxParticipants-1)
	for i := range missing {
		missing[i] = i
	}
	prefix := slices.Repeat([]Token{math.MaxInt32}, MaxPrefix)
	for _, m := range []Message{
		hello, hello.Welcome(text), Refuse{math.MaxUint16, text},
		Plan{
			sampleSession, MaxParticipants - 2, all, Uniform(WireTypes{F16, F16}, MaxLayers),
			Selection{RowsRandom, math.MaxUint64, slices.Repeat([]Share{WholeShare}, MaxRowShares)}, InPlace, prefix, MaxTokens, MaxDeadlineMS, 0,
			strings.Repeat("q", MaxQuestion), MaxTokens,
		},
		Ready{sampleSession, MaxTokens},
		Commit{sampleSession, MaxPrefix, largestRoster(MaxParticipants), &Terms{all.Publisher, Uniform(WireTypes{F16, F16}, MaxLayers)}},
		Join{sampleSession, MaxParticipants - 2},
		Relay{sampleSession, MaxParticipants - 3, MaxParticipants - 2, RelayEnd, Nonce{}, math.MaxUint16, text},
		Done{sampleSession, MaxTokens * MaxLayers, math.MaxInt64, math.Pi, math.E},
		Abort{sampleSession, math.MaxUint16, text},
		Receipt{sampleSession, MaxTokens, MaxLayers, math.MaxInt64, missing},
		Ping{math.MaxUint64, true},
		Waiting{sampleSession, MaxQueue, MaxDeadlineMS},
		Fetch{math.MaxUint32},
		Sources{sampleSession, slices.Repeat([]Source{{strings.Repeat("s", MaxSourceName), MaxTokens}}, MaxSources)},
		Withdraw{sampleSession, text},
		Queries{sampleSession, MaxRowElements, largestQueries(MaxQueryLayers)},
	} {
		typ, body := frameOf(t, m)
		if got, err := ParseMessage(typ, body); err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%v: got %+v, %v", typ, got, err)
		}
		if most := maxBody[typ]; len(body) != most {
			t.Errorf("%v: the largest body has %d bytes, maxBody says %d", typ, len(body), most)
		}
	}
}

func TestParseMessageRefusesAnyBodyBeyondTheLimit(t *testing.T) {
	if _, err := ParseMessage(999, make([]byte, MaxControlMessage-1)); !errors.Is(err, ErrProtocol) {
		t.Errorf("got %v, want ErrProtocol", err)
	}
}

// Whatever 32 KiB say, reading them allocates at most twice as much: claims about lengths are not
// believed before the bytes are there.
func TestParseMessageAllocatesLittle(t *testing.T) {
	const most = 2 * MaxControlMessage
	body := func(head string, with byte, times int) []byte {
		b := unhex(t, strings.ReplaceAll(head, " ", ""))
		return append(b, bytes.Repeat([]byte{with}, times)...)
	}
	bodies := map[string][]byte{
		"64 empty participants":        body("a1 03 98 40", 0xa0, 64),
		"4096 empty participants":      body("a1 03 99 1000", 0xa0, 4096),
		"4097 empty participants":      body("a1 03 99 1001", 0xa0, 4097),
		"a billion participants":       body("a1 03 9a 40000000", 0xa0, 30000),
		"4096 tokens":                  body("a1 09 99 1000", 0x01, 4096),
		"4096 layers":                  body("a1 05 99 1000", 0x01, 4096),
		"a string of four gigabytes":   body("a1 02 7a ffffffff", 'x', 30000),
		"a list of types":              body("a1 05 59 7000", 0x01, 0x7000),
		"a long name":                  body("a1 02 79 7000", 'x', 0x7000),
		"4096 empty maps":              body("a1 18 63 99 1000", 0xa0, 4096),
		"deep arrays":                  body("a1 09", 0x81, 30000),
		"64 empty layers":              body("a1 03 98 40", 0xa0, 64),
		"65 empty layers":              body("a1 03 98 41", 0xa0, 65),
		"sixty-four keys, all one key": body("b8 40", 0x00, 128),
	}
	for name, body := range bodies {
		for typ := MessageHello; typ <= MessageWithdraw; typ++ {
			got := allocated(func() { ParseMessage(typ, body) })
			if got > most {
				t.Errorf("%s as %v: %d bytes allocated, must be at most %d", name, typ, got, most)
			}
		}
	}
}

// allocated is the bytes that a call allocates, on average.
func allocated(call func()) uint64 {
	const calls = 10
	var before, after runtime.MemStats
	call() // caches fill
	runtime.ReadMemStats(&before)
	for range calls {
		call()
	}
	runtime.ReadMemStats(&after)
	return (after.TotalAlloc - before.TotalAlloc) / calls
}

func TestCompatibleHellos(t *testing.T) {
	peer := sampleHello
	peer.Name, peer.Role, peer.Types = "other", RoleContributor, []Type{200, Q4_0, F16}
	peer.Model.Weights = Digest{77}
	if err := sampleHello.Compatible(peer); err != nil {
		t.Errorf("other weights: %v", err)
	}
	if got := sampleHello.CommonTypes(peer); !slices.Equal(got, []Type{F16, Q4_0}) {
		t.Errorf("types in common: %v", got)
	}
	for name, c := range map[string]struct {
		change func(*Hello)
		want   error
		says   []string
	}{
		"protocol": {func(h *Hello) { h.Protocol = 9 }, ErrVersion, []string{"1", "9"}},
		"engine":   {func(h *Hello) { h.Engine = "abcdef" }, ErrVersion, []string{"0c1e57098", "abcdef"}},
		"model":    {func(h *Hello) { h.Model.Rope[0] = 0xee }, ErrRope, []string{"02000000", "ee000000"}},
		"types":    {func(h *Hello) { h.Types = []Type{200} }, ErrTypes, nil},
	} {
		other := peer
		c.change(&other)
		err := sampleHello.Compatible(other)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
			continue
		}
		for _, word := range c.says {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%s: %q does not name %q", name, err, word)
			}
		}
	}
}

func TestRefusalsAndAbortsCarryErrors(t *testing.T) {
	err := Errorf(CodeTooLong, "the text has 9000 tokens,\n\x1b[1mthe context 8192")
	abort := AbortOf(sampleSession, err)
	if abort.Text != "the text has 9000 tokens, [1mthe context 8192" {
		t.Errorf("text %q", abort.Text)
	}
	if _, sendErr := AppendMessage(nil, abort); sendErr != nil {
		t.Error(sendErr)
	}
	if !errors.Is(abort.Err(), ErrTooLong) || !errors.Is(RefuseOf(err).Err(), ErrTooLong) {
		t.Error("the code is lost")
	}
	if text := (Refuse{Code: CodeBusy}).Err().Error(); text != ErrBusy.Error() {
		t.Errorf("an empty text shows as %q", text)
	}
}

func TestCommitLayout(t *testing.T) {
	got := samples()["commit"].(Commit).Layout()
	want := Layout{32, []Segment{{0, 32, 311}, {2, 343, 77}, {3, 420, 19}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func FuzzMessage(f *testing.F) {
	for _, m := range samples() {
		typ, body := frameOf(f, m)
		f.Add(uint16(typ), body)
	}
	f.Fuzz(func(t *testing.T, typ uint16, body []byte) {
		m, err := ParseMessage(MessageType(typ), body)
		frame := binary.BigEndian.AppendUint32(nil, uint32(2+len(body)))
		frame = binary.BigEndian.AppendUint16(frame, typ)
		Annotate(append(frame, body...))
		if err != nil || m == nil {
			if err != nil && !errors.Is(err, ErrProtocol) {
				t.Fatalf("%v is not ErrProtocol", err)
			}
			return
		}
		again, err := AppendMessage(nil, m)
		if err != nil {
			t.Fatalf("%+v was received and cannot be sent: %v", m, err)
		}
		back, err := ParseMessage(MessageType(typ), again[FrameHeaderSize:])
		if err != nil {
			t.Fatal(err)
		}
		last, err := AppendMessage(nil, back)
		if err != nil || !bytes.Equal(last, again) {
			t.Fatalf("not the same twice: %v\n%x\n%x", err, again, last)
		}
		for n := range len(again) - FrameHeaderSize {
			if m, err := ParseMessage(MessageType(typ), again[FrameHeaderSize:FrameHeaderSize+n]); err == nil {
				t.Fatalf("cut to %d bytes it is %+v", n, m)
			}
		}
	})
}
