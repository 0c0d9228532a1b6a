package fedkv

import (
	"fmt"
	"slices"
	"strings"
)

// Wire says in which types the rows of each layer cross the wire: layers differ in what they bear. It is a value,
// comparable with ==; the zero value belongs to a model without layers.
type Wire struct {
	layers int
	types  [MaxLayers]WireTypes
}

// Uniform is the same types at each of 1..MaxLayers layers. Of any other number of layers it is the zero value.
func Uniform(types WireTypes, layers int) Wire {
	if layers < 1 || layers > MaxLayers {
		return Wire{}
	}
	w := Wire{layers: layers}
	for l := range layers {
		w.types[l] = types
	}
	return w
}

// With is w with other types at one of its layers.
func (w Wire) With(layer int, types WireTypes) Wire {
	if layer >= 0 && layer < w.layers {
		w.types[layer] = types
	}
	return w
}

// At is the types of a layer, and the zero value, which is not valid, for layers that do not exist.
func (w Wire) At(layer int) WireTypes {
	if layer < 0 || layer >= w.layers {
		return WireTypes{}
	}
	return w.types[layer]
}

// Len is the number of layers of the model.
func (w Wire) Len() int { return w.layers }

// Validate reports types that are none, or that do not belong to a model with this many layers.
func (w Wire) Validate(layers int) error {
	if w.layers != layers {
		return Errorf(CodeTypes, "wire types are for %d layers, the model has %d", w.layers, layers)
	}
	for l := range w.layers {
		if !w.types[l].Valid() {
			return Errorf(CodeTypes, "layer %d: unknown row types %v", l, w.types[l])
		}
	}
	return nil
}

// ParseWire reads the wire types of a model's layers: those of most of them, then exceptions:
//
//	q8_0/q4_0                          K and V of every layer
//	q4_0+h/q4_0,0-2=q8_0/q8_0,29=f16   other types at layers 0 to 2 and at layer 29
//	q8_0/q4_0,0,5-7,28-=f16            at layers 0, 5 to 7, and 28 and all after it
//
// Types are as for ParseWireTypes. A layer may be named once.
func ParseWire(spec string, layers int) (Wire, error) {
	if layers < 1 || layers > MaxLayers {
		return Wire{}, Errorf(CodeTypes, "wire types for %d layers, must be 1 to %d", layers, MaxLayers)
	}
	most, exceptions, some := strings.Cut(spec, ",")
	types, err := ParseWireTypes(most)
	if err != nil {
		return Wire{}, err
	}
	w := Uniform(types, layers)
	if !some {
		return w, nil
	}
	named := Schedule{layers: layers}
	var waiting []int // layers whose types are still to come
	for part := range strings.SplitSeq(exceptions, ",") {
		list, name, last := strings.Cut(part, "=")
		first, end, err := parseRange(list, layers)
		if err != nil {
			return Wire{}, Errorf(CodeTypes, "wire types %q: %v", spec, err)
		}
		for l := first; l <= end; l++ {
			if named.Sync(l) {
				return Wire{}, Errorf(CodeTypes, "wire types %q: layer %d is named twice", spec, l)
			}
			named.add(l)
			waiting = append(waiting, l)
		}
		if !last {
			continue
		}
		types, err := ParseWireTypes(name)
		if err != nil {
			return Wire{}, err
		}
		for _, l := range waiting {
			w.types[l] = types
		}
		waiting = nil
	}
	if len(waiting) > 0 {
		return Wire{}, Errorf(CodeTypes, "wire types %q: must end with the types of layers %v, as in 0-2=f16", spec, waiting)
	}
	return w, nil
}

// String is the spec that ParseWire reads back: the types of most layers (of the first among equals), then the
// exceptions in the order of their first layers.
func (w Wire) String() string {
	var kinds []WireTypes
	where := map[WireTypes]*Schedule{}
	for l := range w.layers {
		t := w.types[l]
		if where[t] == nil {
			kinds = append(kinds, t)
			where[t] = &Schedule{layers: w.layers}
		}
		where[t].add(l)
	}
	if len(kinds) == 0 {
		return "none"
	}
	most := slices.MaxFunc(kinds, func(a, b WireTypes) int { return where[a].Count() - where[b].Count() })
	var b strings.Builder
	b.WriteString(most.String())
	for _, t := range kinds {
		if t != most {
			fmt.Fprintf(&b, ",%v=%v", where[t], t)
		}
	}
	return b.String()
}
