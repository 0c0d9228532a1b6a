package node

import (
	"context"

	"fedattn/fedkv"
)

// fetch lets a device have the model that this one runs, if the owner lets it ask.
func (c *Contributor) fetch(ctx context.Context, link Link, m fedkv.Fetch) {
	log := c.cfg.Log.With().Str("peer", link.ID()).Logger()
	err := func() error {
		if m.Protocol != fedkv.Protocol {
			return fedkv.Errorf(fedkv.CodeVersion, "we speak protocol %d and the peer speaks %d: install the same release of fedattn on both devices",
				fedkv.Protocol, m.Protocol)
		}
		if _, err := c.admit(link.ID(), fedkv.RolePublisher); err != nil {
			return err
		}
		if c.cfg.Fetched == nil {
			return fedkv.Errorf(fedkv.CodeForbidden, "its owner does not hand out its model")
		}
		return nil
	}()
	if err != nil {
		log.Warn().Err(err).Msg("refused to hand out the model")
		refuse(ctx, link, err)
		return
	}
	log.Info().Msg("a device looks at the model")
	c.cfg.Fetched(ctx, link)
	_ = link.Close(0, errOver.Error())
}
