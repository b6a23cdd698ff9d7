//! The numbers of [`Continuity`](super::Continuity) in Prometheus' text format, version 0.0.4:
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>. Deliberately absent: a server; whoever has one
//! appends this to what it answers.

use std::fmt::Write as _;

use super::ContinuityStatistics;

/// Name behind `halfmq_client_continuity_`, type, help, and the number.
type Metric = (&'static str, &'static str, &'static str, fn(&ContinuityStatistics) -> u64);

const METRICS: [Metric; 7] = [
    ("messages_total", "counter", "Messages that were seen for the first time.", |it| it.messages),
    ("redeliveries_total", "counter", "Messages that came again.", |it| it.redeliveries),
    ("gaps_total", "counter", "Places where messages are lost.", |it| it.gaps),
    ("duplicates_total", "counter", "Sequences that stand in two places.", |it| it.duplicates),
    ("reorderings_total", "counter", "Messages that came after one behind them.", |it| it.reorderings),
    ("unverified_total", "counter", "Holes that were given up because there were too many.", |it| {
        it.unverified
    }),
    ("holes", "gauge", "Places where messages are missing that may still come.", |it| it.holes),
];

/// One family after the other, in each of them one line for each consumer group.
pub(super) fn render(groups: &[(&str, ContinuityStatistics)]) -> String {
    let mut text = String::new();
    for (name, kind, help, number) in METRICS {
        let name = format!("halfmq_client_continuity_{name}");
        let written =
            writeln!(text, "# HELP {name} {help}").and_then(|()| writeln!(text, "# TYPE {name} {kind}"));
        written.expect("a string takes everything");
        for (group, statistics) in groups {
            let sample =
                writeln!(text, "{name}{{consumer_group=\"{}\"}} {}", escaped(group), number(statistics));
            sample.expect("a string takes everything");
        }
    }
    text
}

/// As the value of a label.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_told_once_under_its_name() {
        let statistics = ContinuityStatistics {
            messages: 1,
            redeliveries: 2,
            gaps: 3,
            duplicates: 4,
            reorderings: 5,
            unverified: 6,
            holes: 7,
        };
        let text = render(&[("shipping", statistics), ("a\"b\\c\nd", ContinuityStatistics::default())]);
        let families = [
            ("messages_total", "counter", 1),
            ("redeliveries_total", "counter", 2),
            ("gaps_total", "counter", 3),
            ("duplicates_total", "counter", 4),
            ("reorderings_total", "counter", 5),
            ("unverified_total", "counter", 6),
            ("holes", "gauge", 7),
        ];
        assert!(text.ends_with('\n'), "the last line ends, too");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), families.len() * 4, "{text}");
        for ((family, kind, number), lines) in families.into_iter().zip(lines.chunks(4)) {
            let name = format!("halfmq_client_continuity_{family}");
            let [help, of_type, first, second] = lines else { panic!("four lines: {lines:?}") };
            assert!(help.starts_with(&format!("# HELP {name} ")), "{help}");
            assert_eq!(*of_type, format!("# TYPE {name} {kind}"));
            assert_eq!(*first, format!("{name}{{consumer_group=\"shipping\"}} {number}"));
            assert_eq!(*second, format!("{name}{{consumer_group=\"a\\\"b\\\\c\\nd\"}} 0"));
        }
    }
}
