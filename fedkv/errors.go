package fedkv

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Code is the number of an error on the wire, in Refuse and Abort. Numbers never change their meaning and
// are never used again.
type Code uint16

// The codes of version 1. Zero is no error.
const (
	CodeProtocol     Code = 1  // malformed frame, message or header
	CodeVersion      Code = 2  // another protocol version or engine commit
	CodeModel        Code = 3  // models differ; the next five say in what
	CodeArchitecture Code = 4  // models of different architectures
	CodeShape        Code = 5  // layers or row sizes differ
	CodeRope         Code = 6  // RoPE parameters differ
	CodeTokenizer    Code = 7  // tokenizers differ
	CodeTemplate     Code = 8  // chat templates differ
	CodeTypes        Code = 9  // no row type in common, or a type that was not agreed
	CodePlan         Code = 10 // a plan that this peer cannot follow
	CodeTooLong      Code = 11 // more tokens than the context or the plan allows
	CodeBusy         Code = 12 // no session is free
	CodeForbidden    Code = 13 // not trusted with what was asked for
	CodeDeadline     Code = 14 // the session's time is over
	CodeLost         Code = 15 // the connection broke
	CodeMemory       Code = 16 // not enough memory
	CodeInternal     Code = 17 // the peer's own failure
	CodeRange        Code = 18 // layer, rows, origin or length outside the plan
	CodeDuplicate    Code = 19 // something that may come once came again
	CodeValue        Code = 20 // NaN, infinite or beyond float16
	CodeOrder        Code = 21 // a message that may not come now
	CodeSession      Code = 22 // no such session
	CodeCancelled    Code = 23 // a person stopped it
	CodeHome         Code = 24 // trusted with what stays home only, and rows were asked for
	CodeLimit        Code = 25 // more than the owner gives away in a session or a day
	CodeCanary       Code = 26 // the same model computes something else on the two devices
	CodeForged       Code = 27 // relayed rows are not what their owner signed
	CodeStopping     Code = 28 // shutting down: no new session, and those that run end soon
)

// One sentinel per code, for errors.Is. Their text is the code's sentence for the user, used where an error
// has no text of its own.
var (
	ErrProtocol     = errors.New("the peer does not speak this protocol correctly: install the same release of fedattn on both devices")
	ErrVersion      = errors.New("the peer runs another version: install the same release of fedattn on both devices")
	ErrModel        = errors.New("the peer has another model: start both devices with the same model file")
	ErrArchitecture = errors.New("the peer's model is of another architecture: start both devices with the same model file")
	ErrShape        = errors.New("the peer's model has other layers or row sizes: start both devices with the same model")
	ErrRope         = errors.New("the peer's model encodes positions differently: use the same model file and the same RoPE settings on both devices")
	ErrTokenizer    = errors.New("the peer's model has another tokenizer: start both devices with the same model file")
	ErrTemplate     = errors.New("the peer's model has another chat template: use the same model file or the same template override on both devices")
	ErrTypes        = errors.New("no row type suits both peers: choose another with --wire")
	ErrPlan         = errors.New("the peer cannot follow this plan: try the default schedule and wire types")
	ErrTooLong      = errors.New("the text does not fit: shorten it or start with a larger context")
	ErrBusy         = errors.New("the peer is serving another session: try again shortly")
	ErrForbidden    = errors.New("the peer does not trust this device with its rows: ask its owner to allow it")
	ErrDeadline     = errors.New("the time for the session ran out: allow more time or a shorter text")
	ErrLost         = errors.New("the connection to the peer was lost: check that it is running and reachable")
	ErrMemory       = errors.New("the device has not enough free memory: close other programs, or use a smaller model or context")
	ErrInternal     = errors.New("the device failed inside: see its log")
	ErrRange        = errors.New("the peer sent rows outside the agreed plan and was cut off: install the same release of fedattn on both devices")
	ErrDuplicate    = errors.New("the peer sent the same thing twice and was cut off: install the same release of fedattn on both devices")
	ErrValue        = errors.New("the peer sent rows that are not finite and was cut off: check its model file and its memory")
	ErrOrder        = errors.New("the peer sent a message out of turn and was cut off: install the same release of fedattn on both devices")
	ErrSession      = errors.New("the peer does not know this session: it may have restarted, so ask again")
	ErrCancelled    = errors.New("the session was cancelled")
	ErrHome         = errors.New("the peer trusts this device only with what stays home: ask its owner to trust it with rows")
	ErrLimit        = errors.New("the peer's owner gives away no more: ask for less, or try again tomorrow")
	ErrForged       = errors.New("rows that came through the asking device are not what their owner signed: do not trust the asking device, or update fedattn on all devices")
	ErrCanary       = errors.New("the peer's engine computes other numbers from the same model: install the same release of fedattn on both devices, and check their memory")
	ErrStopping     = errors.New("the peer is shutting down: ask again when it is back")
)

// codes is the one table: code ↔ name ↔ sentinel. A code with a parent is also an error of the parent's kind.
var codes = [...]struct {
	name     string
	sentinel error
	parent   Code
}{
	CodeProtocol:     {"protocol", ErrProtocol, 0},
	CodeVersion:      {"version", ErrVersion, 0},
	CodeModel:        {"model", ErrModel, 0},
	CodeArchitecture: {"architecture", ErrArchitecture, CodeModel},
	CodeShape:        {"shape", ErrShape, CodeModel},
	CodeRope:         {"rope", ErrRope, CodeModel},
	CodeTokenizer:    {"tokenizer", ErrTokenizer, CodeModel},
	CodeTemplate:     {"template", ErrTemplate, CodeModel},
	CodeTypes:        {"types", ErrTypes, 0},
	CodePlan:         {"plan", ErrPlan, 0},
	CodeTooLong:      {"too-long", ErrTooLong, 0},
	CodeBusy:         {"busy", ErrBusy, 0},
	CodeForbidden:    {"forbidden", ErrForbidden, 0},
	CodeDeadline:     {"deadline", ErrDeadline, 0},
	CodeLost:         {"lost", ErrLost, 0},
	CodeMemory:       {"memory", ErrMemory, 0},
	CodeInternal:     {"internal", ErrInternal, 0},
	CodeRange:        {"range", ErrRange, 0},
	CodeDuplicate:    {"duplicate", ErrDuplicate, 0},
	CodeValue:        {"value", ErrValue, 0},
	CodeOrder:        {"order", ErrOrder, 0},
	CodeSession:      {"session", ErrSession, 0},
	CodeCancelled:    {"cancelled", ErrCancelled, 0},
	CodeHome:         {"home", ErrHome, CodeForbidden},
	CodeLimit:        {"limit", ErrLimit, CodeForbidden},
	CodeCanary:       {"canary", ErrCanary, 0},
	CodeForged:       {"forged", ErrForged, 0},
	CodeStopping:     {"stopping", ErrStopping, 0},
}

// known reports whether this version knows the code.
func (c Code) known() bool { return c > 0 && int(c) < len(codes) }

// String is the code's name, such as "too-long", or "code 99" for one that this version does not know.
func (c Code) String() string {
	if !c.known() {
		return fmt.Sprintf("code %d", uint16(c))
	}
	return codes[c].name
}

// Text is the code's sentence for the user.
func (c Code) Text() string {
	if !c.known() {
		return fmt.Sprintf("the peer reported an error that this version does not know (code %d): update fedattn on this device", uint16(c))
	}
	return codes[c].sentinel.Error()
}

// Err is the code's sentinel, or nil for a code that this version does not know.
func (c Code) Err() error {
	if !c.known() {
		return nil
	}
	return codes[c].sentinel
}

// CodeOf is the code to report for an error: that of the *Error or the sentinel in its chain, CodeInternal
// for any other error, and 0 for nil.
func CodeOf(err error) Code {
	if err == nil {
		return 0
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	for c := range codes {
		if codes[c].sentinel != nil && errors.Is(err, codes[c].sentinel) {
			return Code(c)
		}
	}
	return CodeInternal
}

// Error is an error with a code, as it travels in Refuse and Abort. errors.Is finds the sentinel of its code
// and of the code's parent: a tokenizer error is ErrTokenizer and ErrModel.
type Error struct {
	Code Code
	Text string // one sentence; when empty, the code's own
}

// Errorf is an *Error with a formatted text.
func Errorf(code Code, format string, args ...any) error {
	return &Error{Code: code, Text: fmt.Sprintf(format, args...)}
}

func (e *Error) Error() string {
	if e.Text == "" {
		return e.Code.Text()
	}
	return e.Text
}

// Is lets errors.Is compare with the sentinels.
func (e *Error) Is(target error) bool {
	for c := e.Code; c.known(); c = codes[c].parent {
		if target == codes[c].sentinel {
			return true
		}
	}
	return false
}

// CleanText makes any string fit for the Text of a message: invalid UTF-8 and what is not printable become
// spaces, runs of spaces become one, and the end is cut at MaxText bytes.
func CleanText(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	for len(s) > MaxText {
		_, size := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-size]
	}
	return s
}
