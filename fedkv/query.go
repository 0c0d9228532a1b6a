package fedkv

import (
	"math"
	"slices"
)

// Query is what the publisher's own segment looks for at one layer, pooled to a few vectors, each as long as a K row. It
// is compared with K rows, both rotated back to position 0, so that nothing depends on where the two stand.
type Query struct {
	Heads   int       // KV heads, which are compared one by one
	Vectors []float32 // [vectors][elements of a K row]
}

// distance ranks rows: the smaller, the more a query attends to the row among these n. A head of a query shares out its
// attention by softmax(q·k / √(head dim)), as the model does, and the largest share that any gives counts: so a head
// whose scores are all large does not outdo the others.
func (q Query) distance(keys []float32, n int) []float64 {
	elements := len(keys) / n
	dim := elements / q.Heads
	out, scores := make([]float64, n), make([]float64, n)
	for vector := range slices.Chunk(q.Vectors, elements) {
		for at := 0; at+dim <= elements; at += dim {
			most := math.Inf(-1)
			for i := range scores {
				dot := 0.0
				for j, v := range vector[at : at+dim] {
					dot += float64(float64(v) * float64(keys[i*elements+at+j]))
				}
				scores[i] = dot / math.Sqrt(float64(dim))
				most = max(most, scores[i])
			}
			sum := 0.0
			for i, s := range scores {
				scores[i] = math.Exp(s - most)
				sum += scores[i]
			}
			for i, s := range scores {
				out[i] = min(out[i], -s/sum)
			}
		}
	}
	return out
}

// LayerQuery is a Query on the wire.
type LayerQuery struct {
	Layer   int    `cbor:"1,keyasint"`
	Vectors []byte `cbor:"2,keyasint"` // float16, [vectors][elements of a K row]
}

// Queries tells a contributor that ranks rows by RowsQuery what to compare them with: a part of the session's sync layers,
// each of which comes once. It follows Commit.
type Queries struct {
	Session SessionID    `cbor:"1,keyasint"`
	Heads   int          `cbor:"2,keyasint"` // KV heads of these layers
	Layers  layerQueries `cbor:"3,keyasint"` // ascending; at most MaxQueryLayers, with MaxQueryBytes of vectors
}

func (Queries) messageType() MessageType { return MessageQueries }

func (m Queries) validate() error {
	if err := first(
		m.Session.validate(),
		checkRange("heads", m.Heads, 1, MaxRowElements),
		checkRange("layers", len(m.Layers), 1, MaxQueryLayers),
	); err != nil {
		return err
	}
	least, bytes := 0, 0
	for _, l := range m.Layers {
		if err := first(
			checkRange("layer", l.Layer, least, MaxLayers-1),
			checkRange("bytes of vectors", len(l.Vectors), 2, MaxQueryBytes-bytes),
			F16.CheckFinite(l.Vectors),
		); err != nil {
			return err
		}
		least, bytes = l.Layer+1, bytes+len(l.Vectors)
	}
	return nil
}

// layerQueries meets its limit before it is allocated.
type layerQueries []LayerQuery

// UnmarshalCBOR decodes an array of at most MaxQueryLayers.
func (q *layerQueries) UnmarshalCBOR(data []byte) error {
	major, n, _, err := cborHead(data)
	if err != nil {
		return err
	}
	if err := check(major == cborArray && n <= MaxQueryLayers, "queries must be an array of 1 to %d layers", MaxQueryLayers); err != nil {
		return err
	}
	return decMode.Unmarshal(data, (*[]LayerQuery)(q))
}

// queryTotal bounds, in bytes, the vectors of a whole session, which all wait to be sent at once.
const queryTotal = 512 << 10

// QueryVectors is how many vectors a layer's Query may have so that those of all layers can be sent: 0 to
// MaxQueryVectors.
func QueryVectors(shape Shape, layers Schedule) int {
	most, total := MaxQueryVectors, 0
	for _, l := range layers.Layers() {
		row := 2 * shape.Layers[l].K
		most, total = min(most, MaxQueryBytes/row), total+row
	}
	return min(most, queryTotal/max(1, total))
}

// queryMessages puts the queries of these layers, by layer, into as few messages as they fit into.
func queryMessages(session SessionID, shape Shape, layers Schedule, queries []Query) (list []Queries, err error) {
	vectors := QueryVectors(shape, layers)
	if len(queries) != len(shape.Layers) {
		return nil, Errorf(CodeInternal, "queries of %d layers, the model has %d", len(queries), len(shape.Layers))
	}
	var m Queries
	bytes := 0
	for _, l := range layers.Layers() {
		q := queries[l]
		if n := len(q.Vectors) / shape.Layers[l].K; n > vectors {
			return nil, Errorf(CodeInternal, "layer %d has queries of %d vectors, at most %d can be sent", l, n, vectors)
		}
		next := LayerQuery{l, F16.AppendRows(nil, q.Vectors, shape.Layers[l].K)}
		if err := fitsLayer(shape, q.Heads, next); err != nil {
			return nil, err
		}
		if err := F16.CheckFinite(next.Vectors); err != nil {
			return nil, Errorf(CodeValue, "queries of layer %d: %v", l, err)
		}
		if len(m.Layers) > 0 && (m.Heads != q.Heads || len(m.Layers) == MaxQueryLayers || bytes+len(next.Vectors) > MaxQueryBytes) {
			list = append(list, m)
			m, bytes = Queries{}, 0
		}
		m.Session, m.Heads, m.Layers = session, q.Heads, append(m.Layers, next)
		bytes += len(next.Vectors)
	}
	if len(m.Layers) > 0 {
		list = append(list, m)
	}
	return list, nil
}

// fitsLayer reports vectors that are not as long as a layer's K rows, or too many, and heads that K has not.
func fitsLayer(shape Shape, heads int, q LayerQuery) error {
	row := 2 * shape.Layers[q.Layer].K
	if n := len(q.Vectors); n == 0 || n%row != 0 || n/row > MaxQueryVectors {
		return Errorf(CodeRange, "queries of %d bytes at layer %d, which takes 1 to %d vectors of %d", n, q.Layer, MaxQueryVectors, row)
	}
	if heads < 1 || row/2%heads != 0 {
		return Errorf(CodeRange, "queries of %d heads at layer %d, whose K rows have %d elements", heads, q.Layer, row/2)
	}
	return nil
}
