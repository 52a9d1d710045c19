//! The progress bar, and the terminal it shares with the log.

use std::io::Write;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing_subscriber::fmt::MakeWriter;

use crate::commands::progress::{Progress, Snapshot};

/// Often enough to look alive, seldom enough to cost nothing.
const REDRAW: Duration = Duration::from_millis(200);

/// stderr: a bar at the bottom, lines of the log above it.
#[derive(Debug, Clone)]
pub struct Screen {
    bars: MultiProgress,
}

impl Screen {
    /// A screen that draws bars if `progress` and stderr is a terminal.
    #[must_use]
    pub fn new(progress: bool) -> Self {
        let target = if progress { ProgressDrawTarget::stderr_with_hz(10) } else { ProgressDrawTarget::hidden() };
        Self { bars: MultiProgress::with_draw_target(target) }
    }

    /// Draws `progress` until the guard is dropped; the bar is wiped then. Without a terminal, does nothing.
    pub fn draw(&self, progress: Arc<Progress>) -> Drawing {
        if self.bars.is_hidden() {
            return Drawing { thread: None };
        }
        let bar = self.bars.add(ProgressBar::no_length());
        let (stop, stopped) = mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let mut shown = None;
            while stopped.recv_timeout(REDRAW) == Err(RecvTimeoutError::Timeout) {
                show(&bar, progress.snapshot(), &mut shown);
            }
            bar.finish_and_clear();
        });
        Drawing { thread: Some((stop, thread)) }
    }

    /// Writes `text` to stderr in one piece, above the bar.
    pub fn write(&self, text: &[u8]) -> std::io::Result<()> {
        self.bars.suspend(|| std::io::stderr().write_all(text))
    }
}

/// A bar on the screen; dropping it wipes it.
#[derive(Debug)]
#[must_use = "the bar is wiped when this is dropped"]
pub struct Drawing {
    thread: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Drop for Drawing {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.thread.take() {
            drop(stop);
            // A drawer that panicked has nothing to say that matters more than the command's own end.
            drop(thread.join());
        }
    }
}

fn show(bar: &ProgressBar, now: Snapshot, shown: &mut Option<(&'static str, bool)>) {
    let (phase, bounded) = (now.phase, now.total_bytes > 0);
    if *shown != Some((phase, bounded)) {
        *shown = Some((phase, bounded));
        bar.reset();
        bar.set_style(style(bounded));
        bar.set_prefix(phase);
    }
    bar.set_message(if now.files > 0 { format!("{} files", now.files) } else { String::new() });
    if bounded {
        bar.set_length(now.total_bytes.max(now.done_bytes));
    } else {
        bar.unset_length();
    }
    bar.set_position(now.done_bytes);
    bar.tick();
}

fn style(bounded: bool) -> ProgressStyle {
    let template = if bounded {
        "{prefix:.bold} {wide_bar:.cyan} {percent:>3}% {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} eta {eta} {msg}"
    } else {
        "{spinner:.cyan} {prefix:.bold} {binary_bytes} {binary_bytes_per_sec} {elapsed} {msg}"
    };
    ProgressStyle::with_template(template).expect("the templates are tested").progress_chars("━╸─")
}

/// Lets the log write above the bar.
impl<'a> MakeWriter<'a> for Screen {
    type Writer = ScreenWriter<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        ScreenWriter(self)
    }
}

/// A writer whose every `write` goes out whole, above the bar.
#[derive(Debug)]
pub struct ScreenWriter<'a>(&'a Screen);

impl Write for ScreenWriter<'_> {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.write(text)?;
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Result;
    use std::sync::Mutex;

    use indicatif::TermLike;

    use super::*;

    /// A terminal that remembers what was written since its lines were last cleared.
    #[derive(Debug, Clone, Default)]
    struct Terminal(Arc<Mutex<String>>);

    impl TermLike for Terminal {
        fn width(&self) -> u16 {
            120
        }

        fn move_cursor_up(&self, _: usize) -> Result<()> {
            Ok(())
        }

        fn move_cursor_down(&self, _: usize) -> Result<()> {
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> Result<()> {
            Ok(())
        }

        fn write_line(&self, text: &str) -> Result<()> {
            self.write_str(text)
        }

        fn write_str(&self, text: &str) -> Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }

        fn clear_line(&self) -> Result<()> {
            self.0.lock().unwrap().clear();
            Ok(())
        }

        fn flush(&self) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn both_templates_are_valid() {
        let _ = (style(true), style(false));
    }

    #[test]
    fn without_a_terminal_nothing_is_drawn() {
        let drawing = Screen::new(false).draw(Arc::default());
        assert!(drawing.thread.is_none());
    }

    #[test]
    fn the_bar_follows_the_counters_and_is_wiped() {
        let terminal = Terminal::default();
        let target = ProgressDrawTarget::term_like(Box::new(terminal.clone()));
        let screen = Screen { bars: MultiProgress::with_draw_target(target) };
        let progress = Arc::new(Progress::default());
        progress.phase("copying files", 4 << 20);
        progress.add_bytes(1 << 20);
        progress.add_files(7);
        let drawing = screen.draw(Arc::clone(&progress));
        std::thread::sleep(REDRAW * 3);
        let drawn = terminal.0.lock().unwrap().clone();
        assert!(drawn.contains("copying files") && drawn.contains("25%") && drawn.contains("7 files"), "{drawn}");
        drop(drawing);
        assert_eq!(terminal.0.lock().unwrap().trim(), "");
    }
}
