package documents

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"time"

	"github.com/ledongthuc/pdf"
)

// convert has another process turn a PDF into text: one that never ends, or asks for all memory, is killed with it.
func (l *Library) convert(ctx context.Context, file io.Reader) (string, error) {
	if len(l.cfg.Converter) == 0 {
		return "", errors.New("PDF files are not read here")
	}
	ctx, cancel := context.WithTimeout(ctx, converterTime)
	defer cancel()
	var out, why capped
	out.most, why.most = maxText+1, 512
	cmd := exec.CommandContext(ctx, l.cfg.Converter[0], l.cfg.Converter[1:]...)
	cmd.Args[0] = "fedattn" // whatever the file is called
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = file, &out, &why, time.Second
	cmd.Env = []string{} // it needs nothing of this process
	err := cmd.Run()
	switch {
	case len(out.b) > maxText:
		return "", fmt.Errorf("it has more than %s of text", sizeText(maxText))
	case ctx.Err() != nil:
		return "", fmt.Errorf("its text was not there within %v", converterTime)
	case err != nil:
		first, _, _ := strings.Cut(strings.TrimSpace(string(why.b)), "\n")
		if first == "" || strings.Contains(first, "goroutine") {
			first = "reading it failed"
		}
		return "", fmt.Errorf("%s", first)
	}
	return string(out.b), nil
}

// capped keeps the first bytes that are written, and fails when there are more.
type capped struct {
	b    []byte
	most int
}

var errCapped = errors.New("too much")

func (c *capped) Write(p []byte) (int, error) {
	n := min(len(p), c.most-len(c.b))
	c.b = append(c.b, p[:n]...)
	if n < len(p) {
		return n, errCapped
	}
	return n, nil
}

// ConvertPDF writes the text of a PDF file, page by page, as the process does that Config.Converter names: it ends the
// process by exit if too much memory is taken.
func ConvertPDF(in io.Reader, out io.Writer, exit func(code int)) (err error) {
	debug.SetMemoryLimit(converterMemory / 2)
	watched := make(chan struct{})
	defer close(watched)
	go func() {
		taken := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		for {
			select {
			case <-watched:
				return
			case <-time.After(10 * time.Millisecond):
			}
			if metrics.Read(taken); taken[0].Value.Uint64() > converterMemory {
				exit(1)
			}
		}
	}()
	defer func() {
		if p := recover(); p != nil {
			err = errors.New("it is damaged, or no PDF file that can be read")
		}
	}()
	body, err := io.ReadAll(io.LimitReader(in, maxPDF+1))
	if err != nil {
		return err
	}
	if len(body) > maxPDF {
		return fmt.Errorf("it has more than %s", sizeText(maxPDF))
	}
	r, err := pdf.NewReader(bytes.NewReader(body), int64(len(body)))
	if err != nil {
		if errors.Is(err, pdf.ErrInvalidPassword) {
			return errors.New("it is encrypted")
		}
		return errors.New("it is damaged, or no PDF file that can be read")
	}
	fonts := map[string]*pdf.Font{}
	written := 0
	for n := 1; n <= r.NumPage() && written <= maxText; n++ {
		page := r.Page(n)
		if page.V.IsNull() {
			continue
		}
		for _, name := range page.Fonts() {
			if fonts[name] == nil {
				f := page.Font(name)
				fonts[name] = &f
			}
		}
		text, err := page.GetPlainText(fonts)
		if err != nil {
			return errors.New("it is damaged, or no PDF file that can be read")
		}
		k, err := io.WriteString(out, strings.ToValidUTF8(text, "?")+"\n\n")
		if err != nil {
			return err
		}
		written += k
	}
	return nil
}
