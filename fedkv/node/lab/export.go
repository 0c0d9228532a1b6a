package lab

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"fedattn/fedkv"
)

// Export is what somebody else needs to compute a case's logits again with a model of the same weights.
type Export struct {
	Tokens       []fedkv.Token `json:"tokens"`       // all of them, in the order of the stream
	Bounds       []int         `json:"bounds"`       // length of the prefix, starts of segments 2 to N, length of all
	Contributors []int         `json:"contributors"` // sync layers
	Publisher    []int         `json:"publisher"`    // sync layers
	WireK        string        `json:"wire_k"`
	WireV        string        `json:"wire_v"`
	Rows         string        `json:"rows"`
	LocalRows    string        `json:"local_rows"`
	Positions    string        `json:"positions"`
	Seed         uint64        `json:"seed"`
}

// Export describes a case over a prompt, for a model with the given number of layers.
func (c Case) Export(p Prompt, layers int) (Export, error) {
	schedules, err := c.schedules(layers)
	if err != nil {
		return Export{}, err
	}
	e := Export{
		Contributors: schedules.Contributors.Layers(), Publisher: schedules.Publisher.Layers(),
		WireK: c.WireK, WireV: c.WireV, Rows: c.Rows, LocalRows: cmp.Or(c.LocalRows, AllRows), Positions: c.Positions, Seed: c.Seed,
	}
	e.Tokens = p.stream()
	bound := len(p.Prefix)
	for _, s := range p.Segments {
		e.Bounds = append(e.Bounds, bound)
		bound += len(s)
	}
	e.Bounds = append(e.Bounds, bound)
	return e, nil
}

// npyAlignment is of the first value in a file of NumPy's format, version 1.0.
const npyAlignment = 64

// WriteNPY writes float32 values, [len(values)/columns][columns], in NumPy's file format, version 1.0: a magic number,
// the length of a header in two bytes, the header padded with spaces, the values, all little-endian.
func WriteNPY(w io.Writer, values []float32, columns int) error {
	if columns < 1 || len(values)%columns != 0 {
		return fmt.Errorf("%d values are no rows of %d", len(values), columns)
	}
	const magic = "\x93NUMPY\x01\x00"
	header := fmt.Sprintf("{'descr': '<f4', 'fortran_order': False, 'shape': (%d, %d), }", len(values)/columns, columns)
	before := len(magic) + 2
	padding := npyAlignment - (before+len(header)+1)%npyAlignment
	header += strings.Repeat(" ", padding) + "\n"
	out := bufio.NewWriter(w)
	_, _ = out.WriteString(magic) // the writer keeps the first error for Flush
	_ = binary.Write(out, binary.LittleEndian, uint16(len(header)))
	_, _ = out.WriteString(header)
	_ = binary.Write(out, binary.LittleEndian, values)
	return out.Flush()
}
