package fedkv

import (
	"encoding/binary"
	"fmt"

	"github.com/fxamacker/cbor/v2"
)

// The bodies of messages are CBOR (RFC 8949): one map with integer keys, in the deterministic encoding of
// its section 4.2.1. Decoding is strict about everything that is known and lenient about keys that are not,
// which is how later versions add to a message.
var (
	encMode = must(encOptions().EncMode())
	decMode = must(cbor.DecOptions{
		DupMapKey:        cbor.DupMapKeyEnforcedAPF,
		IndefLength:      cbor.IndefLengthForbidden,
		TagsMd:           cbor.TagsForbidden,
		MaxNestedLevels:  8,
		MaxArrayElements: MaxPrefix,
		MaxMapPairs:      64,
		NaN:              cbor.NaNDecodeForbidden,
		Inf:              cbor.InfDecodeForbidden,
		SimpleValues:     must(cbor.NewSimpleValueRegistryFromDefaults(onlyBooleans()...)),
	}.DecMode())
)

// encOptions writes a list that is nil as an empty one: null has no place in a message.
func encOptions() cbor.EncOptions {
	o := cbor.CoreDetEncOptions()
	o.NilContainers = cbor.NilContainerAsEmpty
	return o
}

// onlyBooleans rejects null, undefined and every simple value but false and true: a key is there with its
// value, or it is not there.
func onlyBooleans() []func(*cbor.SimpleValueRegistry) error {
	const falseValue, trueValue, firstReserved, lastReserved = 20, 21, 24, 31
	var reject []func(*cbor.SimpleValueRegistry) error
	for v := range 256 {
		if v == falseValue || v == trueValue || v >= firstReserved && v <= lastReserved {
			continue
		}
		reject = append(reject, cbor.WithRejectedSimpleValue(cbor.SimpleValue(v)))
	}
	return reject
}

// must is for options that are constants: a mistake shows at the first start of any program or test.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// AppendMessage appends a whole frame. It fails if a field is outside its limits; if none is, the frame is
// within MaxControlMessage.
func AppendMessage(b []byte, m Message) ([]byte, error) {
	if err := m.validate(); err != nil {
		return nil, Errorf(CodeInternal, "%v: %v", m.messageType(), err)
	}
	body, err := encMode.Marshal(wireForm(m))
	if err != nil {
		return nil, Errorf(CodeInternal, "%v: %v", m.messageType(), err)
	}
	if most := maxBody[m.messageType()]; len(body) > most {
		return nil, Errorf(CodeInternal, "%v: a body of %d bytes, must be at most %d", m.messageType(), len(body), most)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(2+len(body)))
	b = binary.BigEndian.AppendUint16(b, uint16(m.messageType()))
	return append(b, body...), nil
}

// ParseMessage reads the body of a frame. A type that this version does not know is (nil, nil): skip it.
// Everything else that is not a valid message is an error of code protocol.
func ParseMessage(typ MessageType, body []byte) (Message, error) {
	if 2+len(body) > MaxControlMessage {
		return nil, Errorf(CodeProtocol, "%v: a body of %d bytes, must be at most %d", typ, len(body), MaxControlMessage-2)
	}
	var m Message
	var err error
	switch typ {
	case MessageHello:
		m, err = parseHello(body)
	case MessageWelcome:
		m, err = decode[Welcome](body)
	case MessageRefuse:
		m, err = decode[Refuse](body)
	case MessagePlan:
		m, err = parsePlan(body)
	case MessageReady:
		m, err = decode[Ready](body)
	case MessageCommit:
		m, err = parseCommit(body)
	case MessageJoin:
		m, err = decode[Join](body)
	case MessageDone:
		m, err = decode[Done](body)
	case MessageAbort:
		m, err = decode[Abort](body)
	case MessageReceipt:
		m, err = decode[Receipt](body)
	case MessagePing:
		m, err = decode[Ping](body)
	case MessageQueries:
		m, err = decode[Queries](body)
	case MessageWaiting:
		m, err = decode[Waiting](body)
	case MessageRelay:
		m, err = decode[Relay](body)
	case MessageFetch:
		m, err = decode[Fetch](body)
	case MessageSources:
		var list sourcesBody
		list, err = decode[sourcesBody](body)
		m = Sources{list.Session, list.Documents}
	case MessageWithdraw:
		m, err = decode[Withdraw](body)
	default:
		return nil, nil
	}
	if err == nil {
		err = m.validate()
	}
	if err != nil {
		return nil, Errorf(CodeProtocol, "%v: %v", typ, err)
	}
	return m, nil
}

func decode[T any](body []byte) (T, error) {
	var v T
	err := decMode.Unmarshal(body, &v)
	return v, err
}

// parseHello reads the version first: of a Hello of another protocol nothing else is touched.
func parseHello(body []byte) (Message, error) {
	head, err := decode[struct {
		Protocol uint32 `cbor:"1,keyasint"`
	}](body)
	if err != nil {
		return nil, err
	}
	if head.Protocol != Protocol {
		return Hello{Protocol: head.Protocol}, nil
	}
	return decode[Hello](body)
}

// planBody is Plan on the wire: schedules are lists of layers.
type planBody struct {
	Session      SessionID  `cbor:"1,keyasint"`
	Origin       int        `cbor:"2,keyasint"`
	Layers       int        `cbor:"3,keyasint"`
	Contributors []int      `cbor:"4,keyasint"`
	Publisher    []int      `cbor:"5,keyasint"`
	TypesK       layerTypes `cbor:"6,keyasint"`
	TypesV       layerTypes `cbor:"7,keyasint"`
	Positions    Positions  `cbor:"8,keyasint"`
	Prefix       []Token    `cbor:"9,keyasint"`
	MaxTokens    int        `cbor:"10,keyasint"`
	DeadlineMS   int        `cbor:"11,keyasint"`
	Rows         Selection  `cbor:"12,keyasint"`
	Home         Type       `cbor:"13,keyasint,omitempty"`
	Question     string     `cbor:"14,keyasint,omitempty"`
	Budget       int        `cbor:"15,keyasint,omitempty"`
}

// layerTypes is a type for each layer, a byte each.
type layerTypes []Type

// UnmarshalCBOR decodes a byte string of at most MaxLayers bytes.
func (t *layerTypes) UnmarshalCBOR(data []byte) error {
	major, n, size, err := cborHead(data)
	if err != nil {
		return err
	}
	if major != cborBytes || n > MaxLayers || len(data) != size+int(n) {
		return fmt.Errorf("types must be a byte string of 1 to %d bytes", MaxLayers)
	}
	*t = make(layerTypes, n)
	for i, b := range data[size:] {
		(*t)[i] = Type(b)
	}
	return nil
}

// commitBody is Commit on the wire.
type commitBody struct {
	Session SessionID  `cbor:"1,keyasint"`
	Prefix  int        `cbor:"2,keyasint"`
	Roster  rosterBody `cbor:"3,keyasint"`

	// none, or for each layer of the model
	Publisher []int      `cbor:"4,keyasint,omitempty"`
	TypesK    layerTypes `cbor:"5,keyasint,omitempty"`
	TypesV    layerTypes `cbor:"6,keyasint,omitempty"`
}

// wireBody is a Wire as a type of K and one of V for each layer.
func wireBody(w Wire) (k, v layerTypes) {
	for l := range w.Len() {
		types := w.At(l)
		k, v = append(k, types.K), append(v, types.V)
	}
	return k, v
}

// wireOf is the Wire of so many layers.
func wireOf(layers int, k, v layerTypes) (Wire, error) {
	if len(k) != layers || len(v) != layers {
		return Wire{}, fmt.Errorf("types of %d and %d layers, there are %d", len(k), len(v), layers)
	}
	wire := Uniform(WireTypes{}, layers)
	for l := range layers {
		wire = wire.With(l, WireTypes{k[l], v[l]})
	}
	return wire, nil
}

// wireForm is what a message is encoded as.
func wireForm(m Message) any {
	switch m := m.(type) {
	case Plan:
		body := planBody{
			m.Session, m.Origin, m.Schedules.Publisher.Len(), m.Schedules.Contributors.Layers(), m.Schedules.Publisher.Layers(),
			nil, nil, m.Positions, m.Prefix, m.MaxTokens, m.DeadlineMS, m.Rows,
			m.Home, m.Question, m.Budget,
		}
		body.TypesK, body.TypesV = wireBody(m.Wire)
		return body
	case Commit:
		body := commitBody{Session: m.Session, Prefix: m.Prefix, Roster: m.Roster}
		if m.Terms != nil {
			body.Publisher = m.Terms.Publisher.Layers()
			body.TypesK, body.TypesV = wireBody(m.Terms.Wire)
		}
		return body
	case Sources:
		return sourcesBody{m.Session, m.Documents}
	}
	return m
}

func parsePlan(body []byte) (Message, error) {
	p, err := decode[planBody](body)
	if err != nil {
		return nil, err
	}
	contributors, err := scheduleOf(p.Layers, p.Contributors)
	if err != nil {
		return nil, fmt.Errorf("contributors' %w", err)
	}
	publisher, err := scheduleOf(p.Layers, p.Publisher)
	if err != nil {
		return nil, fmt.Errorf("publisher's %w", err)
	}
	wire, err := wireOf(p.Layers, p.TypesK, p.TypesV)
	if err != nil {
		return nil, err
	}
	if len(p.Rows.Shares) == 0 {
		p.Rows.Shares = nil
	}
	return Plan{
		p.Session, p.Origin, Schedules{contributors, publisher}, wire, p.Rows,
		p.Positions, p.Prefix, p.MaxTokens, p.DeadlineMS, p.Home, p.Question, p.Budget,
	}, nil
}

// scheduleOf accepts strictly ascending layers only, so that a schedule has one encoding.
func scheduleOf(layers int, sync []int) (Schedule, error) {
	for i := 1; i < len(sync); i++ {
		if sync[i] <= sync[i-1] {
			return Schedule{}, fmt.Errorf("schedule: layers do not ascend at %d", sync[i])
		}
	}
	return NewSchedule(layers, sync...)
}

func parseCommit(body []byte) (Message, error) {
	c, err := decode[commitBody](body)
	if err != nil {
		return nil, err
	}
	m := Commit{Session: c.Session, Prefix: c.Prefix, Roster: c.Roster}
	layers := len(c.TypesK)
	if layers == 0 {
		return m, check(len(c.Publisher)+len(c.TypesV) == 0, "layers without types")
	}
	publisher, err := scheduleOf(layers, c.Publisher)
	if err != nil {
		return nil, fmt.Errorf("publisher's %w", err)
	}
	wire, err := wireOf(layers, c.TypesK, c.TypesV)
	if err != nil {
		return nil, err
	}
	m.Terms = &Terms{publisher, wire}
	return m, nil
}

// rosterBody meets its limit before it is allocated: an empty line is one byte on the wire and a hundred in
// memory.
type rosterBody []Participant

// UnmarshalCBOR decodes an array of at most MaxParticipants.
func (r *rosterBody) UnmarshalCBOR(data []byte) error {
	major, n, _, err := cborHead(data)
	if err != nil {
		return err
	}
	if major != cborArray || n > MaxParticipants {
		return fmt.Errorf("a roster must be an array of 1 to %d", MaxParticipants)
	}
	return decMode.Unmarshal(data, (*[]Participant)(r))
}

// UnmarshalCBOR decodes a byte string of exactly 16 bytes.
func (id *SessionID) UnmarshalCBOR(data []byte) error { return decodeFixed(id[:], data) }

// UnmarshalCBOR decodes a byte string of exactly 32 bytes.
func (d *Digest) UnmarshalCBOR(data []byte) error { return decodeFixed(d[:], data) }

// decodeFixed fills dst from a byte string of its length. The library alone would also take shorter and
// longer strings, and arrays.
func decodeFixed(dst, data []byte) error {
	major, n, size, err := cborHead(data)
	if err != nil {
		return err
	}
	if major != cborBytes || n != uint64(len(dst)) || len(data) != size+len(dst) {
		return fmt.Errorf("must be a byte string of %d bytes", len(dst))
	}
	copy(dst, data[size:])
	return nil
}

// The major types of CBOR that this package looks at itself.
const (
	cborUint   = 0
	cborNegint = 1
	cborBytes  = 2
	cborText   = 3
	cborArray  = 4
	cborMap    = 5
	cborSimple = 7
)

// cborHead reads the head of a data item: its major type, its argument (a value, or a length), and the bytes
// that the head takes.
func cborHead(data []byte) (major byte, argument uint64, size int, err error) {
	if len(data) == 0 {
		return 0, 0, 0, fmt.Errorf("cbor: no data")
	}
	major, info := data[0]>>5, data[0]&31
	if info < 24 {
		return major, uint64(info), 1, nil
	}
	size = 1 + 1<<(info-24)
	if info > 27 || len(data) < size {
		return 0, 0, 0, fmt.Errorf("cbor: malformed head %#02x", data[0])
	}
	for _, b := range data[1:size] {
		argument = argument<<8 | uint64(b)
	}
	return major, argument, size, nil
}
