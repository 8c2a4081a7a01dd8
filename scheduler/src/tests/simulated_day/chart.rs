//! Picture of a simulated day.

use std::fmt::Write as _;

use super::farm::{Day, Minute};

const WIDTH: usize = 1000;
const LEFT: usize = 60;
const PANEL: usize = 180;
const GAP: usize = 46;
const TOP: usize = 56;
/// Minutes that one point of a line stands for.
const STEP: usize = 5;

/// A line of a panel: its colour, its name, and its value in each minute.
struct Line<'a> {
    colour: &'a str,
    name: &'a str,
    values: Vec<u64>,
}

impl<'a> Line<'a> {
    fn new(colour: &'a str, name: &'a str, day: &Day, value: impl Fn(&Minute) -> u64) -> Self {
        let chunks = day.minutes.chunks(STEP);
        // The highest value, so that short peaks are seen.
        let highest = chunks.map(|chunk| chunk.iter().map(&value).max().unwrap_or_default());
        Self {
            colour,
            name,
            values: highest.collect(),
        }
    }
}

/// Draws two days with the same load: with marks of idle workers, and without.
pub(super) fn draw(marked: &Day, unmarked: &Day) -> String {
    let slots = |count: usize| count as u64;
    let panels = [
        (
            "slots",
            vec![
                Line::new("#9aa0a6", "wanted by the scaler", marked, |minute| minute.wanted),
                Line::new("#1a73e8", "of workers that take Actions", marked, |minute| {
                    slots(minute.running + minute.idle)
                }),
                Line::new("#188038", "running Actions", marked, |minute| {
                    slots(minute.running)
                }),
            ],
        ),
        (
            "idle slots",
            vec![
                Line::new(
                    "#e8710a",
                    "of workers that drain, without marks",
                    unmarked,
                    |minute| slots(minute.lost),
                ),
                Line::new("#1a73e8", "of workers that take Actions", marked, |minute| {
                    slots(minute.idle)
                }),
                Line::new("#188038", "of workers that drain, with marks", marked, |minute| {
                    slots(minute.lost)
                }),
            ],
        ),
        (
            "longest wait, seconds",
            vec![Line::new(
                "#1a73e8",
                "of the Actions that begin",
                marked,
                |minute| minute.waited,
            )],
        ),
    ];
    let height = TOP + panels.len() * (PANEL + GAP) + 20;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"16\">A simulated day: {} workers started, {} taken away, {} Actions killed, {} marks \
         written. 19 of 20 Actions waited up to {} s.</text>\n\
         <text x=\"{LEFT}\" y=\"34\">Taken away while busy: {}, without marks {}. Slot hours lost in workers that drain: {}, \
         without marks {}.</text>\n",
        LEFT + WIDTH + 20,
        marked.started,
        marked.scaled_down,
        marked.killed,
        marked.marks,
        marked.waited(0.95),
        marked.busy_scaled_down,
        unmarked.busy_scaled_down,
        marked.lost_slot_seconds() / 3600,
        unmarked.lost_slot_seconds() / 3600,
    );
    for (index, (title, lines)) in panels.iter().enumerate() {
        panel(&mut svg, TOP + 20 + index * (PANEL + GAP), title, lines);
    }
    svg.push_str("</svg>\n");
    svg
}

fn panel(svg: &mut String, top: usize, title: &str, lines: &[Line<'_>]) {
    let bottom = top + PANEL;
    let highest = lines.iter().flat_map(|line| line.values.iter().copied()).max();
    let highest = highest.unwrap_or_default().max(1);
    let _ = writeln!(
        svg,
        "<path d=\"M{LEFT} {top}V{bottom}H{}\" fill=\"none\" stroke=\"#5f6368\"/>\n\
         <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{highest}</text>\n\
         <text x=\"{}\" y=\"{bottom}\" text-anchor=\"end\">0</text>\n\
         <text x=\"{LEFT}\" y=\"{}\" font-weight=\"bold\">{title}</text>",
        LEFT + WIDTH,
        LEFT - 6,
        top + 10,
        LEFT - 6,
        top - 6,
    );
    for hour in (0..=24).step_by(4) {
        let x = LEFT + WIDTH * hour / 24;
        let _ = writeln!(
            svg,
            "<text x=\"{x}\" y=\"{}\" text-anchor=\"middle\">{hour}:00</text>",
            bottom + 16
        );
    }
    let mut x = LEFT + 180;
    for line in lines {
        let points: Vec<_> = line
            .values
            .iter()
            .enumerate()
            .map(|(index, value)| {
                let x = LEFT + WIDTH * index / line.values.len();
                let y = bottom as u64 - value * PANEL as u64 / highest;
                format!("{x},{y}")
            })
            .collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.3\"/>\n\
             <text x=\"{x}\" y=\"{}\" fill=\"{}\">{}</text>",
            points.join(" "),
            line.colour,
            top - 6,
            line.colour,
            line.name
        );
        x += 230;
    }
}
