package fedkv

import (
	"encoding/binary"
	"fmt"
)

// Everything on the wire is big-endian, but for the rows themselves, which are ggml's bytes. docs/wire.md is
// the normative description; this file draws the fixed parts.
//
// A control frame carries one message. Length counts what follows it: 2 bytes of type and the body, one CBOR
// map with integer keys. It is at most MaxControlMessage; maxBody has the most that this version sends of each
// message, and a later version may send more.
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+---------------------------------------------------------------+
//	| length                                                        |
//	+-------------------------------+-------------------------------+
//	| type                          | CBOR body …
//	+-------------------------------+
//
// A block is one unidirectional stream: a header of BlockHeaderSize bytes, then length bytes of payload, then the
// end of the stream.
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+---------------------------------------------------------------+
//	| magic "fkvb"                                                  |  0
//	+-------------------------------+-------------------------------+
//	| version (1)                   | reserved (0)                  |  4
//	+-------------------------------+-------------------------------+
//	|                                                               |  8
//	|                       session, 16 bytes                       |
//	|                                                               |
//	|                                                               |
//	+-------------------------------+-------------------------------+
//	| origin                        | layer                         | 24
//	+-------------------------------+-------------------------------+
//	| first row                                                     | 28
//	+---------------------------------------------------------------+
//	| rows                                                          | 32
//	+---------------+---------------+-------------------------------+
//	| type of K     | type of V     | reserved (0)                  | 36
//	+---------------+---------------+-------------------------------+
//	| length                                                        | 40
//	+---------------------------------------------------------------+
//	| kept                                                          | 44
//	+---------------------------------------------------------------+
//	| if kept < rows: bitmap, ⌈rows / 8⌉ bytes …                      48
//	| if kept > 0: of a centred type the mean of K, float16 …
//	|              K rows: [kept][RowSize(elements of K)] bytes …
//	|              of a centred type the mean of V, float16 …
//	|              V rows: [kept][RowSize(elements of V)] bytes …
const (
	// FrameHeaderSize is the bytes before a frame's body: length and type.
	FrameHeaderSize = 6

	// BlockHeaderSize is the bytes before a block's payload.
	BlockHeaderSize = 48

	blockMagic   = "fkvb"
	blockVersion = 1
)

// MessageType is the number of a message in its frame. Numbers are never used again.
type MessageType uint16

// The messages of version 1.
const (
	MessageHello    MessageType = 1
	MessageWelcome  MessageType = 2
	MessageRefuse   MessageType = 3
	MessagePlan     MessageType = 4
	MessageReady    MessageType = 5
	MessageCommit   MessageType = 6
	MessageJoin     MessageType = 7
	MessageDone     MessageType = 8
	MessageAbort    MessageType = 9
	MessageReceipt  MessageType = 10
	MessagePing     MessageType = 11
	MessageQueries  MessageType = 12
	MessageWaiting  MessageType = 13
	MessageRelay    MessageType = 14
	MessageFetch    MessageType = 15
	MessageSources  MessageType = 16
	MessageWithdraw MessageType = 17
)

// maxBody is the bytes of the largest body of each message, every field at its limit.
var maxBody = [...]int{
	MessageHello:    701,
	MessageWelcome:  1217,
	MessageRefuse:   521,
	MessagePlan:     27688,
	MessageReady:    25,
	MessageCommit:   29614,
	MessageJoin:     22,
	MessageDone:     55,
	MessageAbort:    539,
	MessageReceipt:  144,
	MessagePing:     13,
	MessageQueries:  31324,
	MessageWaiting:  29,
	MessageRelay:    565,
	MessageFetch:    7,
	MessageSources:  8854,
	MessageWithdraw: 535,
}

var messageNames = [...]string{
	MessageHello:    "hello",
	MessageWelcome:  "welcome",
	MessageRefuse:   "refuse",
	MessagePlan:     "plan",
	MessageReady:    "ready",
	MessageCommit:   "commit",
	MessageJoin:     "join",
	MessageDone:     "done",
	MessageAbort:    "abort",
	MessageReceipt:  "receipt",
	MessagePing:     "ping",
	MessageQueries:  "queries",
	MessageWaiting:  "waiting",
	MessageRelay:    "relay",
	MessageFetch:    "fetch",
	MessageSources:  "sources",
	MessageWithdraw: "withdraw",
}

// String is the message's name in lower case.
func (t MessageType) String() string {
	if t == 0 || int(t) >= len(messageNames) {
		return fmt.Sprintf("message %d", uint16(t))
	}
	return messageNames[t]
}

// ParseFrameHeader reads the first FrameHeaderSize bytes of a frame: its type, and how many bytes of body
// follow, which is at most MaxControlMessage-2.
func ParseFrameHeader(b []byte) (typ MessageType, body int, err error) {
	if len(b) != FrameHeaderSize {
		return 0, 0, Errorf(CodeProtocol, "a frame header of %d bytes, must be %d", len(b), FrameHeaderSize)
	}
	length := binary.BigEndian.Uint32(b)
	if length < 2 || length > MaxControlMessage {
		return 0, 0, Errorf(CodeProtocol, "a frame of %d bytes, must be 2 to %d", length, MaxControlMessage)
	}
	return MessageType(binary.BigEndian.Uint16(b[4:])), int(length) - 2, nil
}

// AppendMarshal appends the BlockHeaderSize bytes of the header, after the SealSize bytes of its seal if it has one.
func (h BlockHeader) AppendMarshal(b []byte) ([]byte, error) {
	if err := h.validate(); err != nil {
		return nil, err
	}
	if h.Seal.Sealed {
		b = h.Seal.appendMarshal(b)
	}
	b = append(b, blockMagic...)
	b = binary.BigEndian.AppendUint16(b, blockVersion)
	b = binary.BigEndian.AppendUint16(b, 0)
	b = append(b, h.Session[:]...)
	b = binary.BigEndian.AppendUint16(b, uint16(h.Origin))
	b = binary.BigEndian.AppendUint16(b, uint16(h.Layer))
	b = binary.BigEndian.AppendUint32(b, uint32(h.First))
	b = binary.BigEndian.AppendUint32(b, uint32(h.Rows))
	b = append(b, byte(h.Types.K), byte(h.Types.V), 0, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(h.Length))
	b = binary.BigEndian.AppendUint32(b, uint32(h.Kept))
	return b, nil
}

// BlockHeaderLength is how many bytes a block's header has, its seal included, by its first four.
func BlockHeaderLength(b []byte) int {
	if len(b) >= len(sealMagic) && string(b[:len(sealMagic)]) == sealMagic {
		return SealSize + BlockHeaderSize
	}
	return BlockHeaderSize
}

// ParseBlockHeader reads exactly the BlockHeaderLength bytes of a header. What it returns is within the limits of this
// package; whether it fits the session is for Collector.Check.
func ParseBlockHeader(b []byte) (BlockHeader, error) {
	if n := BlockHeaderLength(b); n > BlockHeaderSize && n == len(b) {
		seal, err := parseSeal(b)
		if err != nil {
			return BlockHeader{}, err
		}
		h, err := parseUnsealed(b[SealSize:])
		if err != nil {
			return BlockHeader{}, err
		}
		h.Seal = seal
		if err := h.validate(); err != nil {
			return BlockHeader{}, err
		}
		return h, nil
	}
	return parseUnsealed(b)
}

func parseUnsealed(b []byte) (BlockHeader, error) {
	if len(b) != BlockHeaderSize {
		return BlockHeader{}, Errorf(CodeProtocol, "a block header of %d bytes, must be %d", len(b), BlockHeaderSize)
	}
	if string(b[:4]) != blockMagic {
		return BlockHeader{}, Errorf(CodeProtocol, "a block that does not begin with %q", blockMagic)
	}
	if v := binary.BigEndian.Uint16(b[4:]); v != blockVersion {
		return BlockHeader{}, Errorf(CodeVersion, "a block of version %d, must be %d", v, blockVersion)
	}
	if binary.BigEndian.Uint16(b[6:]) != 0 || binary.BigEndian.Uint16(b[38:]) != 0 {
		return BlockHeader{}, Errorf(CodeProtocol, "a block with reserved bits set")
	}
	h := BlockHeader{
		Session: SessionID(b[8:24]),
		Origin:  int(binary.BigEndian.Uint16(b[24:])),
		Layer:   int(binary.BigEndian.Uint16(b[26:])),
		Types:   WireTypes{K: Type(b[36]), V: Type(b[37])},
	}
	if err := readFields("block", b, []headerField{
		{"first row", 28, MaxTokens - 1, &h.First},
		{"rows", 32, MaxTokens, &h.Rows},
		{"length", 40, MaxBlock, &h.Length},
		{"kept rows", 44, MaxTokens, &h.Kept},
	}); err != nil {
		return BlockHeader{}, err
	}
	if err := h.validate(); err != nil {
		return BlockHeader{}, err
	}
	return h, nil
}

// headerField is an unsigned number of 32 bits in a header.
type headerField struct {
	name string
	at   int
	most uint32
	to   *int
}

// readFields reads and bounds fields of a header. On a 32-bit device an int does not hold every uint32: limits come
// before conversion.
func readFields(what string, header []byte, fields []headerField) error {
	for _, f := range fields {
		n := binary.BigEndian.Uint32(header[f.at:])
		if n > f.most {
			return Errorf(CodeRange, "a %s with %s %d, must be at most %d", what, f.name, n, f.most)
		}
		*f.to = int(n)
	}
	return nil
}

func (h BlockHeader) validate() error {
	if err := h.Session.validate(); err != nil {
		return Errorf(CodeProtocol, "a block of a %v", err)
	}
	if !h.Types.Valid() {
		return Errorf(CodeTypes, "a block with unknown row types %v", h.Types)
	}
	if err := first(
		checkRange("origin", h.Origin, 0, MaxParticipants-2),
		checkRange("layer", h.Layer, 0, MaxLayers-1),
		checkRange("first row", h.First, 0, MaxTokens-1),
		checkRange("rows", h.Rows, 1, MaxTokens-h.First),
		checkRange("kept rows", h.Kept, 0, h.Rows),
		checkRange("length", h.Length, 1, MaxBlock),
		checkSeal(h.Seal, h.Origin),
	); err != nil {
		return Errorf(CodeRange, "a block with %v", err)
	}
	return nil
}
