package lab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

const (
	beginMark = "<!-- begin of what the bench writes -->"
	endMark   = "<!-- end of what the bench writes -->"
)

// Summary replaces the part between the marks of a document by the lines that have a Headline.
func (p *Page) Summary(path string) error {
	var b strings.Builder
	b.WriteString("| | Against, in the same run | Ratio | Goal |\n|---|---|---|---|\n")
	for i := range p.Results {
		if r := &p.Results[i]; r.Headline != "" {
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", r.Headline, r.Against, number(r.Ratio()), spelled(r.Goal))
		}
	}
	return between(path, b.String())
}

// Page is what the generated part of a document says.
type Page struct {
	Command     string
	Environment []string
	Results     []Result
	Charts      []string // paths of pictures, as the document links them
}

// Replace writes the page between the marks of a document, which has to be there.
func (p *Page) Replace(path string) error { return between(path, p.text()) }

// between replaces what stands between the marks of a document.
func between(path, text string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok := bytes.Cut(old, []byte(beginMark))
	_, after, closed := bytes.Cut(rest, []byte(endMark))
	if !ok || !closed {
		return errors.New(path + ": no marks for the generated part")
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(string(before)+beginMark+"\n\n"+text+"\n"+endMark+string(after)), info.Mode())
}

func (p *Page) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Made by `%s`, on:\n\n", p.Command)
	for _, fact := range p.Environment {
		fmt.Fprintf(&b, "- %s\n", fact)
	}
	b.WriteString("\n| Line | Ours | Reference | Ratio (lowest–highest) | Goal | Met |\n|---|---|---|---|---|---|\n")
	for i := range p.Results {
		p.row(&b, &p.Results[i])
	}
	if missed := p.missed(); len(missed) > 0 {
		fmt.Fprintf(&b, "\nNot met: %s.\n", strings.Join(missed, ", "))
	}
	b.WriteString("\nWhat each line measures, what bounds it and where the two sides differ:\n\n")
	for i := range p.Results {
		if r := &p.Results[i]; r.Notes != "" && !p.saidBefore(i) {
			fmt.Fprintf(&b, "- `%s`: %s%s\n", r.Name, r.Notes, r.quantiles())
		}
	}
	for _, c := range p.Charts {
		fmt.Fprintf(&b, "\n![%s](%s)\n", strings.TrimSuffix(c[strings.LastIndexByte(c, '/')+1:], ".svg"), c)
	}
	return b.String()
}

func (p *Page) row(b *strings.Builder, r *Result) {
	ours, reference := r.Values()
	low, high := r.span()
	fmt.Fprintf(b, "| `%s` | %s %s | %s, %s | %s (%s–%s), %s | %s | %s |\n", r.Name, number(ours), r.Unit, r.Against,
		number(reference), number(r.Ratio()), number(low), number(high), counted(len(r.Ratios)), spelled(r.Goal), r.Goal.verdict(r.Ratio()))
}

func counted(runs int) string {
	if runs == 1 {
		return "1 run"
	}
	return strconv.Itoa(runs) + " runs"
}

func (p *Page) missed() (names []string) {
	for i := range p.Results {
		if r := &p.Results[i]; !r.Met() {
			names = append(names, "`"+r.Name+"`")
		}
	}
	return names
}

// saidBefore reports whether an earlier line has the same notes: those of one chart do.
func (p *Page) saidBefore(i int) bool {
	for _, r := range p.Results[:i] {
		if r.Notes == p.Results[i].Notes {
			return true
		}
	}
	return false
}

func (r *Result) quantiles() string {
	if l := r.latencies(); l != "" {
		return " Latency" + strings.TrimPrefix(l, " ") + "."
	}
	return ""
}

func spelled(g Goal) string {
	return strings.NewReplacer(">=", "≥ ", "<=", "≤ ").Replace(g.String())
}
