//! How long recovery took in each drill, as SVG inside a page, and the drills as a table.

use super::markup::{Escaped, Percent, joined, tick_ms, tick_words};
use super::{sentence, took};
use crate::domain::verification::Verdict;
use crate::layout::drill_record::DrillRecord;

/// So many drills are shown: six years of one each quarter, or the last nights.
pub(super) const SHOWN: usize = 24;

/// With fewer drills the bars would become beams.
const FEWEST_SLOTS: usize = 8;

/// Height in which the bars stand.
const PLOT: u64 = 150;

/// Height above them.
const HEAD: u64 = 22;

/// Height of the dates below.
const AXIS: u64 = 26;

/// Dates below the bars at most; more run into each other on a phone.
const MOST_DATES: usize = 6;

/// A bar for each drill, the oldest first; where nothing was measured, a sign of what it came to.
pub(super) fn chart(drills: &[&DrillRecord]) -> String {
    let drills = &drills[drills.len().saturating_sub(SHOWN)..];
    let objective = |drill: &DrillRecord| drill.recovery.as_ref()?.objective_ms;
    let total = |drill: &DrillRecord| drill.recovery.as_ref().map(|recovery| recovery.total_ms);
    let highest = drills.iter().flat_map(|drill| [total(drill), objective(drill)]).flatten().max().unwrap_or(0);
    if highest == 0 {
        return String::new();
    }
    let slots = drills.len().max(FEWEST_SLOTS) as u64;
    let y = |millis: u64| {
        let height = u128::from(millis) * u128::from(PLOT) / u128::from(highest);
        HEAD + PLOT - u64::try_from(height).unwrap_or(PLOT)
    };
    let bottom = HEAD + PLOT;
    let step = tick_ms(highest, 4);
    let levels: Vec<u64> = (0..=highest / step).map(|at| at * step).collect();
    let lines = joined(
        levels
            .iter()
            .map(|millis| format!("<line class=\"grid\" x1=\"0\" x2=\"100%\" y1=\"{0}\" y2=\"{0}\"/>\n", y(*millis))),
    );
    let labels = joined(levels.iter().map(|millis| {
        format!("<text x=\"100%\" y=\"{}\" text-anchor=\"end\">{}</text>", y(*millis) + 4, tick_words(*millis))
    }));
    let every = drills.len().div_ceil(MOST_DATES).max(1);
    let bars = joined(drills.iter().enumerate().map(|(at, drill)| {
        let slot = at as u64;
        let centre = Percent(slot * 100 + 50, slots * 100);
        let (class, sign) = looks(drill.verdict);
        let bar = total(drill).map_or_else(
            || {
                format!(
                    "<text class=\"sign {class}\" x=\"{centre}\" y=\"{}\" text-anchor=\"middle\">{sign}</text>",
                    bottom - 6
                )
            },
            |millis| bar(slot, slots, (y(millis), bottom), class, sign),
        );
        let title = format!("drill {}, {}", drill.sequence.unwrap_or_default(), drill.verdict);
        // Counted from the newest, which always has its date.
        let behind = drills.len() - 1 - at;
        let date = behind
            .is_multiple_of(every)
            .then(|| date(drill, (slot, slots), !(behind / every).is_multiple_of(2), bottom + 18));
        let due = objective(drill).map_or(String::new(), |millis| {
            let (from, to) = (Percent(slot, slots), Percent(slot + 1, slots));
            format!("<line class=\"mark due\" x1=\"{from}\" x2=\"{to}\" y1=\"{0}\" y2=\"{0}\"/>", y(millis))
        });
        let now = if behind == 0 { " class=\"now\"" } else { "" };
        format!("<g{now}><title>{title}</title>{bar}{due}{}</g>\n", date.unwrap_or_default())
    }));
    let height = HEAD + PLOT + AXIS;
    format!(
        "<div class=\"bars\">\n<svg class=\"scale\" aria-hidden=\"true\" height=\"{height}\">{labels}</svg>\n\
         <svg class=\"plot\" role=\"img\" aria-label=\"Recovery time of {} drills\" width=\"100%\" height=\"{height}\">\n\
         {lines}{bars}</svg>\n</div>\n\
         <ul class=\"legend\"><li><span class=\"key\"><i class=\"pass\"></i>✓ passed</span><span class=\"key\"><i class=\"fail\"></i>✕ \
         failed</span><span class=\"key\"><i class=\"inconclusive\"></i>? inconclusive</span><span class=\"key\"><i \
         class=\"due\"></i>objective</span></li></ul>\n",
        drills.len()
    )
}

/// The date below a bar; `is_minor`: where there is little room it is left out.
fn date(drill: &DrillRecord, (slot, slots): (u64, u64), is_minor: bool, y: u64) -> String {
    // At the very right a date in the middle would leave the chart.
    let (x, anchor) = if slot + 1 == slots { (100, "end") } else { (50, "middle") };
    let class = if is_minor { " class=\"minor\"" } else { "" };
    format!(
        "<text{class} x=\"{}\" y=\"{y}\" text-anchor=\"{anchor}\">{}</text>",
        Percent(slot * 100 + x, slots * 100),
        drill.ended.format("%-d %b %y")
    )
}

/// A bar with the sign of its verdict on top, so that paper without colours tells it too.
fn bar(slot: u64, slots: u64, (top, bottom): (u64, u64), class: &str, sign: &str) -> String {
    let (x, centre) = (Percent(slot * 100 + 20, slots * 100), Percent(slot * 100 + 50, slots * 100));
    let top = top.min(bottom - 2);
    format!(
        "<rect class=\"{class}\" x=\"{x}\" y=\"{top}\" width=\"{}\" height=\"{}\" rx=\"2\"/>\
         <text class=\"sign {class}\" x=\"{centre}\" y=\"{}\" text-anchor=\"middle\">{sign}</text>",
        Percent(60, slots * 100),
        bottom - top,
        top - 5
    )
}

/// The class of a verdict in the style sheet, and its sign.
pub(super) fn looks(verdict: Verdict) -> (&'static str, &'static str) {
    match verdict {
        Verdict::Pass => ("pass", "✓"),
        Verdict::Fail => ("fail", "✕"),
        Verdict::Inconclusive => ("inconclusive", "?"),
    }
}

/// The drills, the newest first.
pub(super) fn table(drills: &[&DrillRecord]) -> String {
    let rows = joined(drills.iter().rev().take(SHOWN).map(|drill| row(drill)));
    let more = drills.len().saturating_sub(SHOWN);
    let more = if more == 0 {
        String::new()
    } else {
        format!("<p class=\"fine\">Older drills: {more}. They are listed by <code>barback drill history</code>.</p>\n")
    };
    format!(
        "<table class=\"stack\">\n<thead><tr><th class=\"n\">No.</th><th>Ended (UTC)</th><th>Verdict</th><th>Level</th><th>Backup</th>\
         <th class=\"n\">Recovery</th><th class=\"n\">Objective</th></tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n{more}"
    )
}

fn row(drill: &DrillRecord) -> String {
    let (class, sign) = looks(drill.verdict);
    let recovery = drill.recovery.as_ref();
    let cell = |label: &str, class: &str, text: &str| {
        let empty = if text.is_empty() { " empty" } else { "" };
        format!("<td data-label=\"{label}\" class=\"{class}{empty}\">{}</td>", Escaped(text))
    };
    let cells = [
        cell("No.", "n", &drill.sequence.map_or(String::new(), |number| number.to_string())),
        cell("Ended", "t", &drill.ended.format("%Y-%m-%d %H:%M:%S").to_string()),
        format!("<td data-label=\"Verdict\"><span class=\"badge {class}\">{sign} {}</span></td>", drill.verdict),
        cell("Level", "", &drill.level.to_string()),
        cell("Backup", "t", drill.backup.as_ref().map_or("", |backup| &backup.id)),
        cell("Recovery", "n", &recovery.map_or(String::new(), |recovery| took(recovery.total_ms))),
        cell("Objective", "n", &recovery.and_then(|recovery| recovery.objective_ms).map_or(String::new(), took)),
    ];
    let why = drill.reason.as_ref().filter(|_| drill.verdict != Verdict::Pass);
    let why = why.map_or(String::new(), |why| {
        format!("<tr class=\"why\"><td></td><td colspan=\"6\">{}</td></tr>\n", Escaped(&sentence(why)))
    });
    format!("<tr>{}</tr>\n{why}", cells.concat())
}
