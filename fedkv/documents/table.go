package documents

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"strings"
)

// table writes each record of a table with the names of its columns, so that a record can be understood, and found, by
// itself. What is no table stays as it is.
func table(body []byte, tabs bool) string {
	r := csv.NewReader(bytes.NewReader(body))
	r.LazyQuotes, r.TrimLeadingSpace = true, true
	if tabs {
		r.Comma = '\t'
	} else if line, _, _ := bytes.Cut(body, []byte("\n")); bytes.Count(line, []byte(";")) > bytes.Count(line, []byte(",")) {
		r.Comma = ';'
	}
	records, err := r.ReadAll()
	if err != nil || len(records) < 2 || len(records[0]) < 2 {
		return string(body)
	}
	var out strings.Builder
	for _, record := range records[1:] {
		var fields []string
		for i, value := range record {
			if value = strings.TrimSpace(value); value != "" {
				fields = append(fields, fmt.Sprintf("%s: %s", strings.TrimSpace(records[0][i]), value))
			}
		}
		fmt.Fprintf(&out, "%s\n", strings.Join(fields, ", "))
		if out.Len() > maxText {
			break // refused by its length
		}
	}
	return out.String()
}
