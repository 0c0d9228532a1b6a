package transport

import (
	"io"

	"fedattn/fedkv"
)

// frameReader takes control messages off a byte stream. The cap on a frame is checked before its body is
// read, into memory that is reused and never exceeds fedkv.MaxControlMessage.
type frameReader struct {
	from io.Reader
	body []byte
}

// next returns the next message of a type that this version knows, and skips others. The end of the stream
// between two frames is io.EOF; inside a frame it is io.ErrUnexpectedEOF. A *fedkv.Error means that the peer
// broke the protocol; the stream is useless after any error.
func (r *frameReader) next() (fedkv.Message, error) {
	for {
		var header [fedkv.FrameHeaderSize]byte
		if _, err := io.ReadFull(r.from, header[:]); err != nil {
			return nil, err
		}
		typ, length, err := fedkv.ParseFrameHeader(header[:])
		if err != nil {
			return nil, err
		}
		if cap(r.body) < length {
			r.body = make([]byte, length)
		}
		body := r.body[:length]
		if _, err := io.ReadFull(r.from, body); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		message, err := fedkv.ParseMessage(typ, body)
		if message != nil || err != nil {
			return message, err
		}
	}
}
