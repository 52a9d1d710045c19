//! The phases of a drill along its time, as SVG inside a page: lengths in percent, so that it fits every screen and sheet of paper.

use std::time::Duration;

use super::markup::{Escaped, Percent, joined, tick_ms, tick_words};
use super::took;
use crate::cli::quantity::{human_rate, human_size};
use crate::layout::drill_record::{DrillPhase, DrillRecord};

/// Height of a phase's row. The names and the numbers beside the chart have rows of the same height in the style sheet.
const ROW: usize = 36;

/// Height of what stands above the rows: a line for each of two marks.
const HEAD: usize = 40;

/// The same where there are none.
const LOW_HEAD: usize = 6;

/// Height of the axis below them.
const AXIS: usize = 24;

/// More marks than this run into each other on a phone.
const MOST_TICKS: u64 = 7;

/// So many colours are told from each other, on paper too; further shares take the last one.
const COLOURS: usize = 6;

/// The chart, its legend and of what the phases' time was made up; nothing where there are no phases.
pub(super) fn timeline(record: &DrillRecord) -> String {
    let phases = &record.phases;
    let end = phases.iter().map(end_of).max().unwrap_or(0);
    if end == 0 {
        return String::new();
    }
    let names = joined(phases.iter().map(|phase| format!("<li>{}</li>", Escaped(&phase.name))));
    let numbers = joined(phases.iter().map(numbers));
    let kinds = share_names(phases);
    let top = if record.recovery.is_some() { HEAD } else { LOW_HEAD };
    let bottom = top + phases.len() * ROW;
    let bars = joined(phases.iter().enumerate().map(|(at, phase)| bar(phase, top + at * ROW, end, &kinds)));
    let about = format!("{} phases in {}", phases.len(), took(end));
    format!(
        "<div class=\"gantt\">\n<ul class=\"names\" style=\"padding-top:{top}px\">{names}</ul>\n\
         <svg class=\"plot\" role=\"img\" aria-label=\"Timeline: {about}\" width=\"100%\" height=\"{}\">\n{}{}{bars}</svg>\n\
         <ul class=\"numbers\" style=\"padding-top:{top}px\">{numbers}</ul>\n</div>\n{}",
        bottom + AXIS,
        grid(end, top, bottom),
        marks(record, end, bottom),
        made_up_of(phases, &kinds),
    )
}

fn end_of(phase: &DrillPhase) -> u64 {
    phase.began_ms.saturating_add(phase.took_ms)
}

fn numbers(phase: &DrillPhase) -> String {
    let through = phase.bytes.map_or(String::new(), |bytes| {
        let rate = human_rate(bytes, Duration::from_millis(phase.took_ms));
        format!("<small>{} <i>· {rate}</i></small>", human_size(bytes))
    });
    format!("<li>{}{through}</li>", took(phase.took_ms))
}

/// The kinds of shares, in the order in which they come.
fn share_names(phases: &[DrillPhase]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for share in phases.iter().flat_map(|phase| &phase.shares) {
        if !names.contains(&share.name.as_str()) {
            names.push(&share.name);
        }
    }
    names
}

fn colour(kinds: &[&str], name: &str) -> usize {
    kinds.iter().position(|kind| *kind == name).unwrap_or(0).min(COLOURS - 1)
}

/// Lines and times of the axis.
fn grid(end: u64, top: usize, bottom: usize) -> String {
    let step = tick_ms(end, MOST_TICKS);
    let ticks = (0..=end / step).map(|at| at * step).map(|millis| {
        let x = Percent(millis, end);
        // The first stands right of its line and the last left of it, so that none leaves the chart.
        let (anchor, class) = match millis {
            0 => ("start", ""),
            _ if millis > end - end / 20 => ("end", ""),
            _ if !(millis / step).is_multiple_of(2) => ("middle", " class=\"minor\""),
            _ => ("middle", ""),
        };
        format!(
            "<line class=\"grid\" x1=\"{x}\" x2=\"{x}\" y1=\"{top}\" y2=\"{bottom}\"/>\
             <text x=\"{x}\" y=\"{}\" text-anchor=\"{anchor}\"{class}>{}</text>\n",
            bottom + 16,
            tick_words(millis)
        )
    });
    ticks.collect()
}

/// A phase's bar, in the colours of its shares where they are known.
fn bar(phase: &DrillPhase, top: usize, end: u64, kinds: &[&str]) -> String {
    let y = top + 8;
    let height = ROW - 16;
    let rect = |class: &str, from: u64, length: u64, title: &str| {
        // At its very end a short phase is moved to the left to be seen.
        let width = Percent::visible(length, end);
        let x = Percent(from.min(end.saturating_sub(width.0)), end);
        format!(
            "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"2\"><title>{}</title></rect>\n",
            Escaped(title)
        )
    };
    // Of workers side by side all time together is more than the phase's; of one, what is not known is left over.
    let total = phase.shares.iter().map(|share| share.took_ms).fold(0, u64::saturating_add).max(phase.took_ms);
    let scaled = |millis: u64| {
        let scaled = (u128::from(millis) * u128::from(phase.took_ms)).checked_div(u128::from(total)).unwrap_or(0);
        u64::try_from(scaled).unwrap_or(0)
    };
    let mut before = 0;
    let mut parts =
        vec![rect("bar", phase.began_ms, phase.took_ms, &format!("{}: {}", phase.name, took(phase.took_ms)))];
    for share in &phase.shares {
        let title = format!("{}: {}", share.name, took(share.took_ms));
        let class = format!("bar share s{}", colour(kinds, &share.name));
        parts.push(rect(&class, phase.began_ms + scaled(before), scaled(share.took_ms), &title));
        before += share.took_ms;
    }
    parts.concat()
}

/// When the server took connections, and when it had to.
fn marks(record: &DrillRecord, end: u64, bottom: usize) -> String {
    let Some(recovery) = &record.recovery else { return String::new() };
    let mark = |class: &str, millis: u64, line: usize, words: &str| {
        if millis > end {
            return String::new();
        }
        let x = Percent(millis, end);
        let (anchor, shift) = if millis > end / 2 { ("end", "-6") } else { ("start", "6") };
        format!(
            "<line class=\"mark {class}\" x1=\"{x}\" x2=\"{x}\" y1=\"{}\" y2=\"{bottom}\"/>\
             <text class=\"mark {class}\" x=\"{x}\" dx=\"{shift}\" y=\"{}\" text-anchor=\"{anchor}\">{words} {}</text>\n",
            line * 17 + 3,
            line * 17 + 13,
            took(millis)
        )
    };
    let objective = recovery.objective_ms.map_or(String::new(), |objective| mark("due", objective, 0, "objective"));
    format!("{objective}{}", mark("up", recovery.total_ms, 1, "ready after"))
}

/// The legend: of what the time of a phase was made up, in numbers.
fn made_up_of(phases: &[DrillPhase], kinds: &[&str]) -> String {
    let lines = joined(phases.iter().filter(|phase| !phase.shares.is_empty()).map(|phase| {
        let total = phase.shares.iter().map(|share| share.took_ms).fold(0, u64::saturating_add).max(1);
        let shares = joined(phase.shares.iter().map(|share| {
            let hundredths = (u128::from(share.took_ms) * 100 + u128::from(total / 2)) / u128::from(total);
            let key = colour(kinds, &share.name);
            format!("<span class=\"key\"><i class=\"s{key}\"></i>{} {hundredths} %</span>", Escaped(&share.name))
        }));
        format!("<li><b>{}</b> {shares}</li>\n", Escaped(&phase.name))
    }));
    if lines.is_empty() {
        return lines;
    }
    format!(
        "<ul class=\"legend\">\n{lines}</ul>\n<p class=\"fine\">Colours show of what a phase’s time was made up, all its workers \
         together; not when.</p>\n"
    )
}
