package task

import "strings"

// Lists have no word in common, so that a word of a fact is in no other sentence.
var (
	things = strings.Fields(`umbrella quilt jacket lamp ladder blanket helmet clock bottle wagon window lantern pillow table
		mirror kite cradle kettle basket hammer candle carpet drum fiddle needle oven rope saddle violin whistle bucket
		anchor bell broom comb curtain desk engine flag glove hat iron jar knife lock mask nail paddle ring scarf shelf
		spoon sword tent towel trumpet vase wheel axe bag`)
	attributes = strings.Fields(`code price weight number height length age width size depth value cost`)
	roles      = strings.Fields(`owner maker seller buyer finder keeper`)
	people     = strings.Fields(`Anna Ben Clara David Emma Frank Grace Henry Ivy Jack Kate Leo Mary Nick Olive Paul`)
)

// What filler sentences are made of.
var (
	actors  = strings.Fields(`gardener baker teacher farmer sailor painter doctor singer tailor driver`)
	actions = strings.Fields(`watched carried cleaned found moved wanted liked counted`)
	objects = strings.Fields(`flowers bread books boats horses chairs stones letters apples shoes`)
	places  = strings.Fields(`garden kitchen school harbour market street station valley forest village`)
)
