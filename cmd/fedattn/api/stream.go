package api

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"time"
)

// stream answers piece by piece as server-sent events. Once the first is out a failure can only be one of them.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, b Backend, req Request, in common, k kind, head reply) {
	head.Object = k.chunk
	e := &events{w: w, head: head}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	result, err := s.run(ctx, b, req, func(text string) error {
		if !e.begun && k.prefix == chatKind.prefix {
			empty := ""
			if err := e.chunk(choice{Delta: &said{"assistant", &empty}}); err != nil {
				return err
			}
		}
		return e.chunk(k.piece(text))
	})
	if err != nil {
		if !e.begun {
			writeError(w, err)
			return
		}
		_, b := body(err)
		_ = e.send(b)
		return
	}
	last := k.piece("")
	if last.Delta != nil {
		last.Delta = &said{}
	}
	last.FinishReason = &result.Finish
	final := head
	final.Choices = []choice{last}
	final.Timings, final.Federation = result.timings(), result.Federation
	if e.send(final) != nil {
		return
	}
	if in.StreamOptions != nil && in.StreamOptions.IncludeUsage {
		counted := head
		counted.Choices, counted.Usage = []choice{}, result.usage()
		if e.send(counted) != nil {
			return
		}
	}
	_ = e.write([]byte("data: [DONE]\n\n"))
}

// events are sent one at a time, each with a deadline: a client that does not read is left.
type events struct {
	w     http.ResponseWriter
	head  reply
	begun bool
}

func (e *events) chunk(c choice) error {
	r := e.head
	r.Choices = []choice{c}
	return e.send(r)
}

func (e *events) send(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var line bytes.Buffer
	line.WriteString("data: ")
	line.Write(b)
	line.WriteString("\n\n")
	return e.write(line.Bytes())
}

func (e *events) write(b []byte) error {
	if !e.begun {
		e.begun = true
		e.w.Header().Set("Content-Type", "text/event-stream")
		e.w.WriteHeader(http.StatusOK)
	}
	control := http.NewResponseController(e.w)
	_ = control.SetWriteDeadline(time.Now().Add(writeTimeout))
	if _, err := e.w.Write(b); err != nil {
		return err
	}
	return control.Flush()
}
