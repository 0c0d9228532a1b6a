package main

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"github.com/jedib0t/go-pretty/v6/table"

	"fedattn/fedkv/node/lab"
)

// record is a measured case in each of the forms in which it may be printed.
type record struct {
	object any      // of scalars, for JSON and CSV
	header []string // of a table
	cells  []any
	more   string // what a table has under it if its reader wants everything
}

// evalOutput prints records of one kind. A table is printed by close.
type evalOutput interface {
	record(r record) error
	close()
}

// evalFormats by the name that --format takes.
var evalFormats = map[string]func(w io.Writer, verbose bool) evalOutput{
	"table": func(w io.Writer, verbose bool) evalOutput { return &evalTable{w: w, verbose: verbose} },
	"jsonl": func(w io.Writer, _ bool) evalOutput { return evalLines{json.NewEncoder(w)} },
	"csv":   func(w io.Writer, _ bool) evalOutput { return &evalCSV{Writer: csv.NewWriter(w)} },
}

// unprintable words what JSON cannot say: a figure that is no number.
func unprintable(err error) error {
	return fmt.Errorf("a figure is no number, so these logits cannot be compared: %w", err)
}

type evalLines struct{ *json.Encoder }

func (o evalLines) record(r record) error {
	if err := o.Encode(r.object); err != nil {
		return unprintable(err)
	}
	return nil
}

func (evalLines) close() {}

// evalCSV has JSON's keys as its first line, and JSON's values.
type evalCSV struct {
	*csv.Writer
	begun bool
}

func (o *evalCSV) record(r record) error {
	keys, values, err := fields(r.object)
	if err != nil {
		return unprintable(err)
	}
	if !o.begun {
		_ = o.Write(keys) // the output keeps its first error
		o.begun = true
	}
	_ = o.Write(values)
	o.Flush()
	return nil
}

func (*evalCSV) close() {}

// fields takes an object of scalars apart, in the order in which JSON has them.
func fields(object any) (keys, values []string, err error) {
	text, err := json.Marshal(object)
	if err != nil {
		return nil, nil, err
	}
	in := json.NewDecoder(bytes.NewReader(text))
	in.UseNumber()
	if _, err := in.Token(); err != nil { // the brace
		return nil, nil, err
	}
	for in.More() {
		key, err := in.Token()
		if err != nil {
			return nil, nil, err
		}
		value, err := in.Token()
		if err != nil {
			return nil, nil, err
		}
		keys, values = append(keys, fmt.Sprint(key)), append(values, fmt.Sprint(value))
	}
	return keys, values, nil
}

type evalTable struct {
	w       io.Writer
	verbose bool
	rows    table.Writer
	more    []string
}

func (o *evalTable) record(r record) error {
	if o.rows == nil {
		o.rows = newTable(o.w, r.header...)
	}
	o.rows.AppendRow(table.Row(slices.Clone(r.cells)))
	if o.verbose && r.more != "" {
		o.more = append(o.more, r.more)
	}
	return nil
}

func (o *evalTable) close() {
	if o.rows == nil {
		return
	}
	o.rows.Render()
	for _, more := range o.more {
		fmt.Fprintf(o.w, "\n%s", more)
	}
}

// caseCells are the columns that say what was measured.
func caseCells(c lab.Case) []any {
	if c.Name == lab.CentralisedName {
		return []any{c.Name, c.Participants, "", "", "", "", ""}
	}
	if c.Name == lab.LocalOnlyName {
		return []any{c.Name, c.Participants, c.Contributors, c.Publisher, "", "", ""}
	}
	return []any{c.Name, c.Participants, c.Contributors, c.Publisher, c.WireK + "/" + c.WireV, rowsText(c), c.Positions}
}

// rowsText is what is attended to of a segment, elsewhere and at its owner's local layers.
func rowsText(c lab.Case) string {
	if c.LocalRows == "" || c.LocalRows == lab.AllRows {
		return c.Rows
	}
	return c.Rows + ", local " + c.LocalRows
}

func plusMinus(mean, se float64, digits int) string {
	return fmt.Sprintf("%.*f ± %.*f", digits, mean, digits, se)
}

func percent(share float64) string { return fmt.Sprintf("%.1f %%", 100*share) }
