//! SIGINT, SIGTERM and SIGHUP as something a long command can ask about and wait for.

use std::io::{self, Read};
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::error::{Error, ErrorKind, Result};

/// A shared "stop now": set by a signal, or by the first worker that fails.
#[derive(Debug, Clone)]
pub struct Interrupt {
    stop: Arc<watch::Sender<bool>>,
    signal: watch::Receiver<Option<&'static str>>,
}

/// Content that is read only until somebody says stop: a file of a gigabyte may take minutes.
pub(crate) struct Interruptible<'a, R> {
    pub(crate) content: &'a mut R,
    pub(crate) interrupt: &'a Interrupt,
}

impl<R: Read> Read for Interruptible<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.interrupt.check().map_err(io::Error::other)?;
        self.content.read(buffer)
    }
}

/// `SIGHUP`.
const HANGUP: u32 = 1;

/// Waits for a signal that may not be listened for.
async fn received(signal: Option<&mut Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether this process was started with a signal ignored; `false` where the system does not say.
fn is_ignored(number: u32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & (1 << (number - 1)) != 0)
}

impl Interrupt {
    /// Starts listening for SIGINT, SIGTERM and, unless it is ignored as under `nohup`, SIGHUP; from now on they no longer kill the
    /// process.
    ///
    /// Errors: `Local` when the signals cannot be had.
    pub fn listen() -> Result<Self> {
        let failed = |cause: io::Error| Error::new(ErrorKind::Local, format!("could not catch signals: {cause}"));
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut hangup = if is_ignored(HANGUP) { None } else { Some(signal(SignalKind::hangup()).map_err(failed)?) };
        let (sender, receiver) = watch::channel(None);
        let stop = Arc::new(watch::Sender::new(false));
        let stopping = Arc::clone(&stop);
        tokio::spawn(async move {
            let name = tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
                () = received(hangup.as_mut()) => "SIGHUP",
                () = sender.closed() => return,
            };
            // Nobody listens any more when the command is already over.
            let _ = sender.send(Some(name));
            stopping.send_replace(true);
            sender.closed().await;
        });
        Ok(Self { stop, signal: receiver })
    }

    /// Tells every worker to stop.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// An error once somebody said stop; cheap enough to ask at every read of a file.
    pub fn check(&self) -> Result<()> {
        if *self.stop.borrow() {
            return Err(self.error());
        }
        Ok(())
    }

    /// Waits until somebody said stop.
    pub async fn stopped(&self) {
        // The sender is ours, so waiting cannot fail.
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }

    /// Waits for a signal.
    pub async fn signalled(&mut self) -> Error {
        if self.signal.wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
        self.error()
    }

    fn error(&self) -> Error {
        let why = match *self.signal.borrow() {
            Some(name) => format!("stopped by {name}"),
            None => "stopped because another worker failed".to_owned(),
        };
        Error::new(ErrorKind::Interrupted, why)
    }
}
