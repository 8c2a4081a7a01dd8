//! Picture of the simulation, as SVG.

use std::fmt::Write as _;

/// Makespans in seconds for one number of workers.
pub(crate) struct Row {
    pub(crate) workers: u32,
    /// max(critical path, work / slots): no scheduler can be faster.
    pub(crate) bound: f64,
    pub(crate) by_path: f64,
    pub(crate) by_arrival: f64,
}

/// Value of a row that a line of the picture shows.
type Value = fn(&Row) -> f64;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 60.0;

/// Draws the makespans over the number of workers, both on logarithmic scales.
pub(crate) fn draw(title: &str, rows: &[Row]) -> String {
    let workers = |row: &Row| f64::from(row.workers);
    let (first, last) = (workers(&rows[0]), workers(&rows[rows.len() - 1]));
    let all = rows
        .iter()
        .flat_map(|row| [row.bound, row.by_path, row.by_arrival]);
    let (least, most) = all.fold((f64::MAX, 0.0), |(least, most): (f64, f64), value| {
        (least.min(value), most.max(value))
    });
    let (least, most) = (least * 0.8, most * 1.2);
    let x = |value: f64| LEFT + (WIDTH - LEFT - RIGHT) * (value / first).ln() / (last / first).ln();
    let y = |value: f64| TOP + (HEIGHT - TOP - BOTTOM) * (most / value).ln() / (most / least).ln();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<title>{title}</title>\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"14\">{title}</text>\n"
    );
    for row in rows {
        let at = x(workers(row));
        let (top, bottom) = (TOP, HEIGHT - BOTTOM);
        let _ = writeln!(
            svg,
            "<line x1=\"{at:.1}\" y1=\"{top}\" x2=\"{at:.1}\" y2=\"{bottom}\" stroke=\"#ddd\"/>\n\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            bottom + 18.0,
            row.workers
        );
    }
    let mut minutes = 1.0;
    while minutes * 60.0 < most {
        if minutes * 60.0 > least {
            let at = y(minutes * 60.0);
            let right = WIDTH - RIGHT;
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\n\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{minutes} min</text>",
                LEFT - 6.0,
                at + 4.0
            );
        }
        minutes *= 2.0;
    }
    let series: [(&str, &str, Value); 3] = [
        ("#888", "max(critical path, work / slots)", |row| row.bound),
        ("#d55e00", "in the order of arrival", |row| row.by_arrival),
        ("#0072b2", "longest remaining path first", |row| row.by_path),
    ];
    for (index, (colour, name, value)) in (0..).zip(series) {
        let points: Vec<String> = rows
            .iter()
            .map(|row| format!("{:.1},{:.1}", x(workers(row)), y(value(row))))
            .collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            points.join(" ")
        );
        let legend = TOP + 16.0 + 18.0 * f64::from(index);
        let left = WIDTH - 260.0;
        let _ = writeln!(
            svg,
            "<line x1=\"{left}\" y1=\"{legend}\" x2=\"{}\" y2=\"{legend}\" stroke=\"{colour}\" stroke-width=\"2\"/>\n\
             <text x=\"{}\" y=\"{}\">{name}</text>",
            left + 24.0,
            left + 30.0,
            legend + 4.0
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">workers with one slot each</text>\n</svg>",
        f64::midpoint(LEFT, WIDTH - RIGHT),
        HEIGHT - 14.0
    );
    svg
}
