package fedkv

import (
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// readWireDoc is docs/wire.md, by heading.
func readWireDoc(t *testing.T) map[string]string {
	t.Helper()
	raw, err := os.ReadFile("../docs/wire.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]string{}
	heading := ""
	for line := range strings.Lines(string(raw)) {
		if strings.HasPrefix(line, "#") {
			heading = strings.TrimSpace(strings.TrimLeft(line, "#"))
		}
		sections[heading] += line
	}
	return sections
}

// tableRows are the first two cells of each line of the tables in a text.
func tableRows(text string) [][2]string {
	var list [][2]string
	for _, m := range regexp.MustCompile(`(?m)^\| (\S+) \| (\S+) \|`).FindAllStringSubmatch(text, -1) {
		list = append(list, [2]string{m[1], m[2]})
	}
	return list
}

// The document and the code name the same fields, codes and limits.
func TestWireDocumentIsTheCode(t *testing.T) {
	doc := readWireDoc(t)

	for typ, body := range bodies {
		heading := fmt.Sprintf("%v (%d)", typ, uint16(typ))
		var want [][2]string
		for _, table := range bodyTables(body) {
			want = append(want, [2]string{"key", "field"})
			for i := range table.NumField() {
				key, _, _ := strings.Cut(table.Field(i).Tag.Get("cbor"), ",")
				want = append(want, [2]string{key, table.Field(i).Name})
			}
		}
		if got := tableRows(doc[heading]); !reflect.DeepEqual(got, want) {
			t.Errorf("%s has the fields\n%v, the code\n%v", heading, got, want)
		}
	}

	want := [][2]string{{"code", "name"}}
	for c := Code(1); c.known(); c++ {
		want = append(want, [2]string{fmt.Sprint(uint16(c)), c.String()})
	}
	if got := tableRows(doc["8. Error codes"]); !reflect.DeepEqual(got, want) {
		t.Errorf("the error codes are\n%v, in the code\n%v", got, want)
	}

	want = [][2]string{{"number", "name"}}
	for typ := Type(1); typ.Valid(); typ++ {
		want = append(want, [2]string{fmt.Sprint(uint8(typ)), typ.String()})
	}
	if got := tableRows(doc["5. Rows"]); len(got) < len(want) || !reflect.DeepEqual(got[:len(want)], want) {
		t.Errorf("the row types are\n%v, in the code\n%v", got, want)
	}

	want = [][2]string{{"limit", "value"}}
	for _, limit := range []struct {
		name  string
		value int
	}{
		{"MaxControlMessage", MaxControlMessage},
		{"MaxBlock", MaxBlock},
		{"MaxParticipants", MaxParticipants},
		{"MaxLayers", MaxLayers},
		{"MaxRowElements", MaxRowElements},
		{"MaxPrefix", MaxPrefix},
		{"MaxTokens", MaxTokens},
		{"MaxName", MaxName},
		{"MaxID", MaxID},
		{"MaxAddr", MaxAddr},
		{"MaxText", MaxText},
		{"MaxTypes", MaxTypes},
		{"MaxRowShares", MaxRowShares},
		{"MaxQueryVectors", MaxQueryVectors},
		{"MaxQueryLayers", MaxQueryLayers},
		{"MaxQueryBytes", MaxQueryBytes},
		{"MaxQuestion", MaxQuestion},
		{"MaxSources", MaxSources},
		{"MaxSourceName", MaxSourceName},
		{"MaxQueue", MaxQueue},
		{"MaxRoundTokens", MaxRoundTokens},
		{"MaxRound", MaxRound},
		{"MaxDeadlineMS", MaxDeadlineMS},
	} {
		want = append(want, [2]string{limit.name, fmt.Sprint(limit.value)})
	}
	if got := tableRows(doc["9. Limits"]); !reflect.DeepEqual(got, want) {
		t.Errorf("the limits are\n%v, in the code\n%v", got, want)
	}
	if largest := slices.Max(maxBody[:]); !strings.Contains(doc["9. Limits"], fmt.Sprint(largest)) {
		t.Errorf("the largest message has %d bytes", largest)
	}

	source, err := os.ReadFile("wire.go")
	if err != nil {
		t.Fatal(err)
	}
	picture := regexp.MustCompile(`(?s)\| magic "fkvb".*?\| kept +\| 44`)
	drawn := strings.ReplaceAll(string(source), "//\t", "")
	if got := picture.FindString(doc["4. Blocks"]); got == "" || got != picture.FindString(drawn) {
		t.Error("the block header is drawn differently in wire.go")
	}
	if source, err = os.ReadFile("relay.go"); err != nil {
		t.Fatal(err)
	}
	picture = regexp.MustCompile(`(?s)\| magic "fkvr".*?\| its signature, 64 bytes +\| 40`)
	drawn = strings.ReplaceAll(string(source), "//\t", "")
	if got := picture.FindString(doc["Sealed blocks"]); got == "" || got != picture.FindString(drawn) {
		t.Error("the seal is drawn differently in relay.go")
	}
	if source, err = os.ReadFile("round.go"); err != nil {
		t.Fatal(err)
	}
	picture = regexp.MustCompile(`(?s)\| magic "fkvq".*?\| length of the payload in bytes +\| 28`)
	drawn = strings.ReplaceAll(string(source), "//\t", "")
	if got := picture.FindString(doc["Rounds"]); got == "" || got != picture.FindString(drawn) {
		t.Error("the header of rounds is drawn differently in round.go")
	}
}

// bodyTables lists a body and the maps inside it, in the order of their fields.
func bodyTables(body reflect.Type) []reflect.Type {
	list := []reflect.Type{body}
	for i := range body.NumField() {
		inner := body.Field(i).Type
		if inner.Kind() == reflect.Slice {
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Struct && body != reflect.TypeFor[Welcome]() {
			list = append(list, bodyTables(inner)...)
		}
	}
	return list
}
