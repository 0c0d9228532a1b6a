package fedkv

import (
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
)

// Annotate explains bytes of the wire: one line per field, with its offset, its bytes and what they mean. b
// is either any number of control frames or a block, whose payload is counted but not shown. It never fails:
// what cannot be read is shown as bytes with the reason.
func Annotate(b []byte) string {
	d := dump{data: b}
	if strings.HasPrefix(string(b), blockMagic) || strings.HasPrefix(string(b), sealMagic) {
		d.block()
		return d.out.String()
	}
	for d.at < len(d.data) {
		d.frame()
	}
	return d.out.String()
}

// dump walks data from at on, writing lines.
type dump struct {
	data []byte
	at   int
	out  strings.Builder
}

// line writes the next n bytes, 12 a line, with a text beside the first of them.
func (d *dump) line(n, depth int, text string) {
	const width = 12
	text = strings.Repeat("  ", depth) + text
	for {
		now := min(n, width)
		line := fmt.Sprintf("%04x  %-*s %s", d.at, 3*width, fmt.Sprintf("% x", d.data[d.at:d.at+now]), text)
		d.out.WriteString(strings.TrimRight(line, " ") + "\n")
		d.at += now
		if n -= now; n <= 0 {
			return
		}
		text = ""
	}
}

// rest writes all bytes up to end as unreadable.
func (d *dump) rest(end int, reason string) {
	d.line(end-d.at, 0, "unreadable: "+reason)
}

func (d *dump) block() {
	header := BlockHeaderLength(d.data)
	if len(d.data) < header {
		d.rest(len(d.data), fmt.Sprintf("a block header has %d bytes", header))
		return
	}
	number := func(n int, name string) {
		var v uint64
		for _, b := range d.data[d.at : d.at+n] {
			v = v<<8 | uint64(b)
		}
		d.line(n, 0, fmt.Sprintf("%s %d", name, v))
	}
	if header > BlockHeaderSize {
		d.line(4, 0, "magic "+strconv.Quote(sealMagic))
		number(2, "version")
		number(2, "to")
		d.line(32, 0, "key")
		d.line(64, 0, "signature")
	}
	d.line(4, 0, "magic "+strconv.Quote(blockMagic))
	number(2, "version")
	number(2, "reserved")
	d.line(16, 0, "session")
	number(2, "origin")
	number(2, "layer")
	number(4, "first row")
	number(4, "rows")
	d.line(1, 0, "type of K: "+Type(d.data[d.at]).String())
	d.line(1, 0, "type of V: "+Type(d.data[d.at]).String())
	number(2, "reserved")
	number(4, "length")
	number(4, "kept rows")
	if n := len(d.data) - header; n > 0 {
		fmt.Fprintf(&d.out, "%04x  %d bytes of payload\n", d.at, n)
	}
}

func (d *dump) frame() {
	left := d.data[d.at:]
	if len(left) < FrameHeaderSize {
		d.rest(len(d.data), fmt.Sprintf("a frame header has %d bytes", FrameHeaderSize))
		return
	}
	typ, body, err := ParseFrameHeader(left[:FrameHeaderSize])
	if err != nil {
		d.rest(len(d.data), err.Error())
		return
	}
	d.line(4, 0, fmt.Sprintf("length %d", body+2))
	d.line(2, 0, fmt.Sprintf("type %d, %v", uint16(typ), typ))
	end := d.at + body
	if end > len(d.data) {
		d.rest(len(d.data), fmt.Sprintf("%d bytes of the body are missing", end-len(d.data)))
		return
	}
	if reason := d.item(end, 0, "", bodies[typ], 0); reason != "" {
		d.rest(end, reason)
	} else if d.at < end {
		d.rest(end, "bytes after the body")
	}
}

// bodies names the fields of each message: they are the names in Go and in docs/wire.md.
var bodies = map[MessageType]reflect.Type{
	MessageHello:    reflect.TypeFor[Hello](),
	MessageWelcome:  reflect.TypeFor[Welcome](),
	MessageRefuse:   reflect.TypeFor[Refuse](),
	MessagePlan:     reflect.TypeFor[planBody](),
	MessageReady:    reflect.TypeFor[Ready](),
	MessageCommit:   reflect.TypeFor[commitBody](),
	MessageJoin:     reflect.TypeFor[Join](),
	MessageDone:     reflect.TypeFor[Done](),
	MessageAbort:    reflect.TypeFor[Abort](),
	MessageReceipt:  reflect.TypeFor[Receipt](),
	MessageQueries:  reflect.TypeFor[Queries](),
	MessagePing:     reflect.TypeFor[Ping](),
	MessageWaiting:  reflect.TypeFor[Waiting](),
	MessageRelay:    reflect.TypeFor[Relay](),
	MessageFetch:    reflect.TypeFor[Fetch](),
	MessageSources:  reflect.TypeFor[sourcesBody](),
	MessageWithdraw: reflect.TypeFor[Withdraw](),
}

// field finds the field of a body that a key stands for; the type is nil if this version has none.
func field(body reflect.Type, key uint64) (label string, typ reflect.Type) {
	if body != nil && body.Kind() == reflect.Struct {
		for i := range body.NumField() {
			f := body.Field(i)
			if number, _, _ := strings.Cut(f.Tag.Get("cbor"), ","); number == strconv.FormatUint(key, 10) {
				return f.Name + ": ", f.Type
			}
		}
	}
	return fmt.Sprintf("key %d, unknown here: ", key), nil
}

// item writes one CBOR item that ends at end or before it, together with the key bytes before it. typ is what
// it should be in Go, or nil. It returns why the item cannot be read, or "".
func (d *dump) item(end, key int, label string, typ reflect.Type, depth int) (reason string) {
	if depth > 8 {
		return "nested too deeply"
	}
	data := d.data[d.at+key : end]
	major, n, size, err := cborHead(data)
	if err != nil {
		return err.Error()
	}
	switch major {
	case cborUint, cborNegint:
		d.line(key+size, depth, label+number(major, n, typ))
	case cborBytes, cborText:
		if n > uint64(len(data)-size) {
			return "a string longer than the body"
		}
		d.line(key+size+int(n), depth, label+text(major, data[size:size+int(n)], typ))
	case cborArray:
		d.line(key+size, depth, fmt.Sprintf("%sarray of %d", label, n))
		if typ != nil && typ.Kind() == reflect.Slice {
			typ = typ.Elem()
		} else {
			typ = nil
		}
		for n > 0 {
			if packed := d.numbers(end, n, typ, depth+1); packed > 0 {
				n -= packed
				continue
			}
			if reason := d.item(end, 0, "", typ, depth+1); reason != "" {
				return reason
			}
			n--
		}
	case cborMap:
		d.line(key+size, depth, fmt.Sprintf("%smap of %d", label, n))
		for ; n > 0; n-- {
			major, number, size, err := cborHead(d.data[d.at:end])
			if err != nil {
				return err.Error()
			}
			if major != cborUint {
				return "a key that is not a number"
			}
			label, typ := field(typ, number)
			if reason := d.item(end, size, label, typ, depth+1); reason != "" {
				return reason
			}
		}
	case cborSimple:
		d.line(key+size, depth, label+simple(n, size))
	default:
		return fmt.Sprintf("a tag (%d)", n)
	}
	return ""
}

// numbers writes as many of the next n integers as fit in a line, if there are two or more, and says how many.
func (d *dump) numbers(end int, n uint64, typ reflect.Type, depth int) uint64 {
	var list []string
	bytes := 0
	for uint64(len(list)) < n {
		major, value, size, err := cborHead(d.data[d.at+bytes : end])
		if err != nil || major > cborNegint || bytes+size > 12 {
			break
		}
		list = append(list, number(major, value, typ))
		bytes += size
	}
	if len(list) < 2 {
		return 0
	}
	d.line(bytes, depth, strings.Join(list, ", "))
	return uint64(len(list))
}

// number shows an integer, and its name if its type has names.
func number(major byte, n uint64, typ reflect.Type) string {
	if major == cborNegint {
		if n == math.MaxUint64 {
			return "-18446744073709551616"
		}
		return "-" + strconv.FormatUint(n+1, 10)
	}
	s := strconv.FormatUint(n, 10)
	if typ != nil && typ.Implements(reflect.TypeFor[fmt.Stringer]()) && typ.Kind() >= reflect.Uint && typ.Kind() <= reflect.Uint64 {
		v := reflect.New(typ).Elem()
		if !v.OverflowUint(n) {
			v.SetUint(n)
			s += ", " + fmt.Sprint(v.Interface())
		}
	}
	return s
}

func text(major byte, content []byte, typ reflect.Type) string {
	if major == cborText {
		return strconv.QuoteToASCII(string(content))
	}
	s := fmt.Sprintf("%d bytes", len(content))
	switch typ {
	case reflect.TypeFor[[]Type]():
		for _, b := range content {
			s += ", " + Type(b).String()
		}
	case reflect.TypeFor[layerTypes]():
		for first := 0; first < len(content); {
			end := first + 1
			for end < len(content) && content[end] == content[first] {
				end++
			}
			s += fmt.Sprintf(", %d-%d %v", first, end-1, Type(content[first]))
			first = end
		}
	}
	return s
}

// simple shows a boolean or a float; the size of its head tells which float it is.
func simple(n uint64, size int) string {
	switch {
	case size == 3:
		return fmt.Sprint(fromHalf(uint16(n)))
	case size == 5:
		return fmt.Sprint(math.Float32frombits(uint32(n)))
	case size == 9:
		return fmt.Sprint(math.Float64frombits(n))
	case n == 20 || n == 21:
		return strconv.FormatBool(n == 21)
	}
	return fmt.Sprintf("simple value %d", n)
}
