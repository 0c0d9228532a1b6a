package node

import "fedattn/fedkv"

// thinOut has the tokens at [at, at+tokens) attend to a selection of each other at the layers that are not in sync.
func thinOut(c Cache, rows fedkv.Selection, sync fedkv.Schedule, at, tokens int) error {
	if rows.Kind <= fedkv.RowsAll {
		return nil
	}
	hiding, ok := c.(Hiding)
	switch {
	case !ok:
		return fedkv.Errorf(fedkv.CodePlan, "this engine attends to all own rows at local layers; leave --local-rows out")
	case rows.NeedsKeys():
		return fedkv.Errorf(fedkv.CodePlan, "local rows cannot be chosen by %v, before there are keys", rows.Kind)
	}
	for layer := range sync.Len() {
		if sync.Sync(layer) {
			continue
		}
		if keep := rows.Select(layer, tokens, 0, tokens, nil, fedkv.Query{}); keep != nil {
			if err := hiding.HideRows(layer, at, keep); err != nil {
				return err
			}
		}
	}
	return nil
}
