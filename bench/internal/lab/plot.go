package lab

import (
	"fmt"
	"image/color"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
)

const (
	chartWidth  = 16 * vg.Centimeter
	chartHeight = 10 * vg.Centimeter
	steps       = 200 // points of a distribution
)

var (
	oursColor      = color.RGBA{R: 0x1f, G: 0x5f, B: 0xbf, A: 0xff}
	referenceColor = color.RGBA{R: 0xc0, G: 0x50, B: 0x20, A: 0xff}
)

// WritePlots draws the charts of the results into a folder, one for each Line.Chart with two points or more and one for
// each Line.Latency, and returns the names of their files.
func WritePlots(dir string, results []Result) ([]string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	var names []string
	for _, name := range charts(results) {
		var points []Result
		for _, r := range results {
			if r.Chart == name {
				points = append(points, r)
			}
		}
		if len(points) < 2 {
			continue
		}
		file := slug(name) + ".svg"
		if err := save(drawChart(name, points), dir, file); err != nil {
			return names, err
		}
		names = append(names, file)
	}
	for i := range results {
		r := &results[i]
		ours, reference := latenciesOf(r.Ours), latenciesOf(r.Reference)
		if r.Latency == "" || len(ours) == 0 || len(reference) == 0 {
			continue
		}
		file := slug(r.Latency) + ".svg"
		if err := save(drawLatency(r, ours, reference), dir, file); err != nil {
			return names, err
		}
		names = append(names, file)
	}
	return names, nil
}

func charts(results []Result) (names []string) {
	for _, r := range results {
		if r.Chart != "" && !slices.Contains(names, r.Chart) {
			names = append(names, r.Chart)
		}
	}
	return names
}

func slug(s string) string {
	return strings.Trim(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(s)), "-")
}

type chart struct {
	*plot.Plot
	err error
}

func newChart(title, x, y string) *chart {
	c := &chart{Plot: plot.New()}
	c.Title.Text, c.X.Label.Text, c.Y.Label.Text = title, x, y
	c.Legend.Top, c.Legend.Left = true, true // rates and distributions rise from the left
	c.Legend.XOffs, c.Legend.YOffs = 6, -4
	c.Add(plotter.NewGrid())
	return c
}

func (c *chart) line(name string, points plotter.XYs, col color.Color, dots bool) {
	l, s, err := plotter.NewLinePoints(points)
	if err != nil {
		c.err = err
		return
	}
	l.Color, s.Color = col, col
	c.Add(l)
	if dots {
		c.Add(s)
	}
	c.Legend.Add(name, l)
}

// drawChart draws both sides over the axis that the lines of a chart have in common.
func drawChart(name string, points []Result) *chart {
	slices.SortFunc(points, func(a, b Result) int { return int(a.X - b.X) })
	_, axis, _ := strings.Cut(name, " over ")
	c := newChart(name, axis, points[0].Unit)
	var ours, reference plotter.XYs
	for i := range points {
		a, b := points[i].Values()
		ours = append(ours, plotter.XY{X: points[i].X, Y: a})
		reference = append(reference, plotter.XY{X: points[i].X, Y: b})
	}
	c.line("manydevice", ours, oursColor, true)
	c.line(points[0].Against, reference, referenceColor, true)
	c.X.Scale, c.X.Tick.Marker = plot.LogScale{}, at(ours)
	c.Y.Min = 0
	return c
}

// at marks the places that were measured.
func at(points plotter.XYs) plot.ConstantTicks {
	var ticks plot.ConstantTicks
	for _, p := range points {
		ticks = append(ticks, plot.Tick{Value: p.X, Label: number(p.X)})
	}
	return ticks
}

// drawLatency draws which share of operations was over after which time.
func drawLatency(r *Result, ours, reference []time.Duration) *chart {
	c := newChart(r.Latency, "milliseconds", "share of operations")
	c.line("manydevice", distribution(ours), oursColor, false)
	c.line(r.Against, distribution(reference), referenceColor, false)
	c.X.Scale, c.X.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: 3}
	return c
}

func distribution(all []time.Duration) plotter.XYs {
	points := make(plotter.XYs, 0, steps)
	for i := range steps {
		q := float64(i) / (steps - 1)
		points = append(points, plotter.XY{X: In(max(Quantile(all, q), 1), time.Millisecond), Y: q})
	}
	return points
}

func save(c *chart, dir, file string) error {
	if c.err != nil {
		return fmt.Errorf("%s: %w", file, c.err)
	}
	return c.Save(chartWidth, chartHeight, filepath.Join(dir, file))
}
