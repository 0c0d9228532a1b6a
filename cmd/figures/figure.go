package main

import (
	"bytes"
	"encoding/csv"
	"errors"
	"image/color"
	"slices"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// figure is what is drawn, whatever it is about.
type figure struct {
	name       string // of the files, without extension
	title      string
	x, y       string // axes
	logX       bool   // with ticks at the x of points
	logY       bool   // values that are not positive are then in the CSV only
	wholeX     bool   // ticks at the x of points, not between
	series     []series
	references []reference
}

// series is points of one colour.
type series struct {
	name   string
	points []point
	line   bool // joined in their order
	steps  bool // joined by steps: what is reached by at most x
	bare   bool // without glyphs
}

type point struct {
	x, y  float64
	label string // beside it
	open  bool   // a ring rather than a disc
}

// reference is a horizontal line.
type reference struct {
	name string
	y    float64
}

const (
	width, height = 20 * vg.Centimeter, 11 * vg.Centimeter
	legendWidth   = 4.2 * vg.Centimeter
	textSize      = vg.Length(9)
)

// palette is Okabe and Ito's, which colour-blind readers can tell apart.
var palette = []color.RGBA{
	{0, 114, 178, 255}, {213, 94, 0, 255}, {0, 158, 115, 255}, {204, 121, 167, 255}, {230, 159, 0, 255},
	{86, 180, 233, 255}, {60, 60, 60, 255}, {150, 130, 0, 255},
}

var grey = color.RGBA{130, 130, 130, 255}

var typeface = font.Font{Typeface: "Liberation", Variant: "Sans"}

// family is what browsers take where the typeface is missing.
const family = "font-family:Liberation Sans"

// svg draws the figure. Nothing in it depends on time, place or the order of a map.
func (f figure) svg() ([]byte, error) {
	canvas := vgsvg.New(width, height)
	if err := f.draw(draw.New(canvas)); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if _, err := canvas.WriteTo(&out); err != nil {
		return nil, err
	}
	return bytes.ReplaceAll(out.Bytes(), []byte(family), []byte(family+", Arial, Helvetica, sans-serif")), nil
}

// draw fills an area with the figure, its legend at the right.
func (f figure) draw(area draw.Canvas) error {
	plot.DefaultFont, plotter.DefaultFont = typeface, typeface
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = f.title, f.x, f.y
	p.Title.TextStyle.Font.Size, p.Title.Padding = textSize+2, vg.Points(6)
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.Label.TextStyle.Font.Size, axis.Tick.Label.Font.Size = textSize, textSize-1
	}
	if f.logY {
		p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	}
	if f.logX {
		p.X.Scale = plot.LogScale{}
	}
	grid := plotter.NewGrid()
	grid.Horizontal.Color, grid.Vertical.Color = color.Gray{230}, color.Gray{240}
	p.Add(grid)

	legend := plot.NewLegend()
	legend.Top, legend.Left, legend.Padding = true, true, vg.Points(3)
	legend.TextStyle.Font.Size = textSize - 0.5
	drawn := 0
	for i, s := range f.series {
		n, err := f.add(p, &legend, s, palette[i%len(palette)])
		if err != nil {
			return err
		}
		drawn += n
	}
	if drawn == 0 {
		return errors.New("no point can be drawn")
	}
	if f.wholeX || f.logX {
		p.X.Tick.Marker = plot.ConstantTicks(f.ticks())
	}
	if err := f.refer(p); err != nil {
		return err
	}
	p.Draw(draw.Crop(area, 0, -legendWidth, 0, 0))
	legend.Draw(draw.Crop(area, width-legendWidth+vg.Points(8), 0, 0, -vg.Points(24)))
	return nil
}

// add draws a series and returns how many points of it.
func (f figure) add(p *plot.Plot, legend *plot.Legend, s series, c color.Color) (int, error) {
	points := slices.DeleteFunc(slices.Clone(s.points), func(p point) bool { return f.logY && p.y <= 0 })
	if len(points) == 0 {
		return 0, nil
	}
	all, labels := make(plotter.XYs, len(points)), plotter.XYLabels{}
	glyphs := [2]plotter.XYs{} // discs, rings
	for i, pt := range points {
		all[i] = plotter.XY{X: pt.x, Y: pt.y}
		kind := 0
		if pt.open {
			kind = 1
		}
		glyphs[kind] = append(glyphs[kind], all[i])
		if pt.label != "" {
			labels.XYs, labels.Labels = append(labels.XYs, all[i]), append(labels.Labels, pt.label)
		}
	}
	var thumbnails []plot.Thumbnailer
	if s.line || s.steps {
		line, err := plotter.NewLine(all)
		if err != nil {
			return 0, err
		}
		line.Color, line.Width = c, vg.Points(1.2)
		if s.steps {
			line.StepStyle = plotter.PostStep
		}
		p.Add(line)
		thumbnails = append(thumbnails, line)
	}
	for kind, at := range glyphs {
		if len(at) == 0 || s.bare {
			continue
		}
		scatter, err := plotter.NewScatter(at)
		if err != nil {
			return 0, err
		}
		scatter.GlyphStyle = draw.GlyphStyle{Color: c, Radius: vg.Points(2.6), Shape: [2]draw.GlyphDrawer{draw.CircleGlyph{}, draw.RingGlyph{}}[kind]}
		p.Add(scatter)
		if len(thumbnails) < 2 {
			thumbnails = append(thumbnails, scatter)
		}
	}
	if len(labels.Labels) > 0 {
		names, err := plotter.NewLabels(labels)
		if err != nil {
			return 0, err
		}
		for i := range names.TextStyle {
			names.TextStyle[i].Font.Size = textSize - 2
		}
		names.Offset = vg.Point{X: vg.Points(4), Y: vg.Points(3)}
		p.Add(names)
	}
	legend.Add(s.name, thumbnails...)
	return len(points), nil
}

// refer draws the reference lines across what the series span.
func (f figure) refer(p *plot.Plot) error {
	from, to := p.X.Min, p.X.Max
	for _, r := range f.references {
		if f.logY && r.y <= 0 {
			continue
		}
		line, err := plotter.NewLine(plotter.XYs{{X: from, Y: r.y}, {X: to, Y: r.y}})
		if err != nil {
			return err
		}
		line.Color, line.Width, line.Dashes = grey, vg.Points(0.8), []vg.Length{vg.Points(4), vg.Points(3)}
		names, err := plotter.NewLabels(plotter.XYLabels{XYs: plotter.XYs{{X: to, Y: r.y}}, Labels: []string{r.name}})
		if err != nil {
			return err
		}
		names.TextStyle[0].Font.Size, names.TextStyle[0].Color, names.TextStyle[0].XAlign = textSize-2, grey, draw.XRight
		names.Offset = vg.Point{X: -vg.Points(4), Y: vg.Points(2)}
		p.Add(line, names)
	}
	return nil
}

// ticks are at every x that a point has, thinned out to what is readable.
func (f figure) ticks() []plot.Tick {
	var at []float64
	for _, s := range f.series {
		for _, p := range s.points {
			at = append(at, p.x)
		}
	}
	slices.Sort(at)
	at = slices.Compact(at)
	every := 1 + len(at)/20
	var ticks []plot.Tick
	for i := 0; i < len(at); i += every {
		ticks = append(ticks, plot.Tick{Value: at[i], Label: text(at[i])})
	}
	return ticks
}

// csv is every point of the figure, drawn or not.
func (f figure) csv() []byte {
	var out bytes.Buffer
	w := csv.NewWriter(&out)
	_ = w.Write([]string{"series", f.x, f.y, "label"})
	for _, s := range f.series {
		for _, p := range s.points {
			_ = w.Write([]string{s.name, text(p.x), text(p.y), p.label})
		}
	}
	for _, r := range f.references {
		_ = w.Write([]string{r.name, "", text(r.y), ""})
	}
	w.Flush()
	return out.Bytes()
}

func text(v float64) string { return strconv.FormatFloat(v, 'g', 6, 64) }
