package models

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"fedattn/models/hub"
)

// Share offers the model at path to other devices, by the hashes of its files, which are computed if they are not known.
func Share(ctx context.Context, path, digestCache string) (hub.Share, error) {
	shards := Shards(path)
	files := make([]hub.File, len(shards))
	for i, shard := range shards {
		d, err := digestOf(ctx, shard, digestCache)
		if err != nil {
			return hub.Share{}, err
		}
		info, err := os.Stat(shard)
		if err != nil {
			return hub.Share{}, err
		}
		files[i] = hub.File{Path: filepath.Base(shard), Size: info.Size(), SHA256: d.String()}
	}
	return hub.NewShare(strings.TrimSuffix(files[0].Path, filepath.Ext(files[0].Path)), files, shards), nil
}
