package documents

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/blevesearch/bleve/v2"
	_ "github.com/blevesearch/bleve/v2/analysis/lang/en" // registers the analyzer
	"github.com/blevesearch/bleve/v2/index/scorch"
	"github.com/blevesearch/bleve/v2/mapping"
	"github.com/blevesearch/bleve/v2/search/query"
	bleveindex "github.com/blevesearch/bleve_index_api"
)

// index finds passages by words, in memory only. Words count with their English stems, and as they are: a text of another
// language is found by the latter.
type index struct {
	bleve bleve.Index
	parts map[string]int // passages of each document that are in it
}

const (
	fieldName  = "name"  // of the document
	fieldWords = "words" // as they are
	fieldStems = "stems"
)

func newIndex() (*index, error) {
	text := func(analyzer string) *mapping.FieldMapping {
		f := bleve.NewTextFieldMapping()
		f.Analyzer, f.Store, f.IncludeTermVectors, f.IncludeInAll, f.DocValues = analyzer, false, false, false, false
		return f
	}
	passages := bleve.NewDocumentStaticMapping()
	passages.AddFieldMappingsAt(fieldName, text("en"))
	passages.AddFieldMappingsAt(fieldWords, text("standard"))
	passages.AddFieldMappingsAt(fieldStems, text("en"))
	m := bleve.NewIndexMapping()
	m.DefaultMapping, m.ScoringModel = passages, bleveindex.BM25Scoring
	b, err := bleve.NewUsing("", m, scorch.Name, scorch.Name, nil)
	if err != nil {
		return nil, fmt.Errorf("the index of documents: %w", err)
	}
	return &index{b, map[string]int{}}, nil
}

func (x *index) close() error { return x.bleve.Close() }

func passageID(name string, i int) string { return strconv.Itoa(i) + "\x00" + name }

// update makes the index hold these documents as they are now.
func (x *index) update(names []string, docs map[string]*document) error {
	batch := x.bleve.NewBatch()
	flush := func() error {
		err := x.bleve.Batch(batch)
		batch = x.bleve.NewBatch()
		return err
	}
	for _, name := range names {
		d := docs[name]
		have := 0
		if d != nil {
			have = len(d.parts)
			for i, p := range d.parts {
				if err := batch.Index(passageID(name, i), map[string]any{fieldName: name, fieldWords: p.text, fieldStems: p.text}); err != nil {
					return err
				}
			}
		}
		for i := have; i < x.parts[name]; i++ {
			batch.Delete(passageID(name, i))
		}
		if x.parts[name] = have; have == 0 {
			delete(x.parts, name)
		}
		if batch.Size() > 1000 {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if batch.Size() == 0 {
		return nil
	}
	return flush()
}

// hit is a passage that a question found.
type hit struct {
	document string
	part     int
	score    float64 // larger is better; only comparable within one search
}

// search finds passages, the best first.
func (x *index) search(ctx context.Context, question string) ([]hit, error) {
	match := func(field string, boost float64) query.Query {
		q := bleve.NewMatchQuery(question)
		q.SetField(field)
		q.SetBoost(boost)
		return q
	}
	request := bleve.NewSearchRequestOptions(bleve.NewDisjunctionQuery(match(fieldStems, 1), match(fieldWords, 0.5), match(fieldName, 0.5)), maxHits, 0, false)
	request.SortBy([]string{"-_score", "_id"})
	found, err := x.bleve.SearchInContext(ctx, request)
	if err != nil {
		return nil, err
	}
	var hits []hit
	for _, h := range found.Hits {
		number, name, _ := strings.Cut(h.ID, "\x00")
		part, err := strconv.Atoi(number)
		if err != nil {
			return nil, err
		}
		hits = append(hits, hit{name, part, h.Score})
	}
	return hits, nil
}
