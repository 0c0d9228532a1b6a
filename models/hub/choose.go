package hub

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// split matches the name of a shard: base, index, count.
var split = regexp.MustCompile(`^(.*)-(\d{5})-of-(\d{5})\.gguf$`)

// maxShards is the most files of one model.
const maxShards = 512

// Shards lists the paths of all shards of a model whose first one is path; of a model in one file, that.
func Shards(first string) []string {
	m := split.FindStringSubmatch(first)
	if m == nil {
		return []string{first}
	}
	count, err := strconv.Atoi(m[3])
	if err != nil || count < 1 || count > maxShards {
		return []string{first}
	}
	var list []string
	for i := range count {
		list = append(list, fmt.Sprintf("%s-%05d-of-%s.gguf", m[1], i+1, m[3]))
	}
	return list
}

// isModel tells models from what else is GGUF: projectors of images, matrices of importance, later shards.
func isModel(name string) bool {
	base := strings.ToLower(path.Base(name))
	if !strings.HasSuffix(base, ".gguf") || strings.Contains(base, "mmproj") || strings.Contains(base, "imatrix") {
		return false
	}
	m := split.FindStringSubmatch(base)
	return m == nil || m[2] == "00001"
}

var quantised = regexp.MustCompile(`(?i)(?:^|[-._/])((?:I?Q[1-8](?:_[A-Z0-9]+)*|TQ[12]_0|BF16|F16|F32|MXFP4(?:_MOE)?))(?:[-./]|$)`)

// Quant is the quantisation that a file's name tells, empty if it tells none.
func Quant(name string) string {
	name = strings.TrimSuffix(name, ".gguf")
	all := quantised.FindAllStringSubmatch(name, -1)
	if len(all) == 0 {
		return ""
	}
	return strings.ToUpper(all[len(all)-1][1])
}

// hasQuant reports whether a file's name has the quantisation in it, as a word of its own.
func hasQuant(name, quant string) bool {
	if strings.EqualFold(path.Base(name), quant) {
		return true
	}
	pattern, err := regexp.Compile(`(?i)(?:^|[-._/])` + regexp.QuoteMeta(quant) + `(?:[-./]|$)`)
	return err == nil && pattern.MatchString(strings.TrimSuffix(name, ".gguf"))
}

// choose returns the files of a repository that a quantisation means, shards in order.
func choose(repo string, files []File, quant string) ([]File, error) {
	var models []File
	byPath := map[string]File{}
	for _, f := range files {
		byPath[f.Path] = f
		if isModel(f.Path) {
			models = append(models, f)
		}
	}
	if len(models) == 0 {
		return nil, fmt.Errorf("%s has no GGUF model: choose a repository whose name ends in -GGUF", repo)
	}
	slices.SortFunc(models, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	wanted := quant
	if wanted == "" {
		wanted = DefaultQuant
	}
	i := slices.IndexFunc(models, func(f File) bool { return hasQuant(f.Path, wanted) })
	switch {
	case i >= 0:
	case quant == "" && len(models) == 1:
		i = 0
	default:
		return nil, fmt.Errorf("%s has no %s: name one of %s behind a colon", repo, wanted, strings.Join(quants(models), ", "))
	}
	var chosen []File
	for _, p := range Shards(models[i].Path) {
		f, ok := byPath[p]
		if !ok {
			return nil, fmt.Errorf("%s lacks %s, a part of the model: tell whoever published it, or choose another quantisation", repo, p)
		}
		chosen = append(chosen, f)
	}
	return chosen, nil
}

// quants lists what may be named behind the colon.
func quants(models []File) []string {
	var list []string
	for _, f := range models {
		q := Quant(f.Path)
		if q == "" {
			q = path.Base(f.Path)
		}
		if !slices.Contains(list, q) {
			list = append(list, q)
		}
	}
	return list
}
