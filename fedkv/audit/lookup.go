package audit

import (
	"context"
	"fmt"

	"fedattn/fedkv"
)

// Lookup reads rows of layer 0, which depend on nothing but the token: the V row that is nearest in a table of the whole
// vocabulary. One table serves all texts that are written with the model.
type Lookup struct {
	table      []float32 // [vocabulary][elements of V]
	vocabulary int
}

// NewLookup makes the table.
func NewLookup(ctx context.Context, trials Trials, layers int, prefix []fedkv.Token) (*Lookup, error) {
	next, err := trials.Know(prefix)
	if err != nil {
		return nil, err
	}
	first, err := fedkv.NewSchedule(layers, 0)
	if err != nil {
		return nil, err
	}
	l := &Lookup{vocabulary: len(next)}
	const batch = 4096
	for from := 0; from < l.vocabulary; from += batch {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		rows, err := trials.Try(singles(fedkv.Span(from, min(batch, l.vocabulary-from))), first)
		if err != nil {
			return nil, err
		}
		l.table = append(l.table, rows[0].V...)
	}
	return l, nil
}

// Text reads an exposure of layer 0.
func (l *Lookup) Text(e Exposure) (Reading, error) {
	if e.Layer != 0 {
		return nil, fmt.Errorf("audit: rows of layer %d cannot be looked up, only those of layer 0", e.Layer)
	}
	reading := make(Reading, len(e.V))
	for i, v := range e.V {
		reading[i] = -1
		if v == nil {
			continue
		}
		nearest := 0.0
		for t := range l.vocabulary {
			if d := apart(l.table[t*len(v):], v); reading[i] < 0 || d < nearest {
				reading[i], nearest = fedkv.Token(t), d
			}
		}
	}
	return reading, nil
}
