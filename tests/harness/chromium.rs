//! A browser without windows, as an independent witness of what a page is: what it renders, what it looks like, what it asks for.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::directory::TestDir;
use super::postgres::tools_dirs;
use super::process::{Finished, Run};
use super::skip::skip;

/// A page is small; a machine busy with other tests is slow.
const TIMEOUT: Duration = Duration::from_mins(2);

/// A Chromium whose every request, also to this host, goes to a proxy of the test that counts it and gives no answer.
#[derive(Debug)]
pub struct Chromium {
    program: PathBuf,
    dir: TestDir,
    proxy: String,
    asked: Arc<AtomicUsize>,
}

impl Chromium {
    /// `None`, said aloud, where there is none (a panic where servers are required).
    pub fn start() -> Option<Self> {
        let Some(program) = find() else {
            skip("the drill's page", "no Chromium; tools/get-chromium.sh fetches one");
            return None;
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&asked);
        // Ends with the test's process: nothing waits for it.
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                counter.fetch_add(1, Ordering::SeqCst);
                drop(connection);
            }
        });
        Some(Self { program, dir: TestDir::new(), proxy, asked })
    }

    /// Connections that were made to the proxy so far.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// The document as it is after it was rendered.
    pub fn dom(&self, page: &str) -> String {
        self.open(page, &["--dump-dom"]).stdout
    }

    /// A picture of the page on a screen of that size, as PNG.
    pub fn screenshot(&self, page: &str, (width, height): (u32, u32), more: &[&str]) -> Vec<u8> {
        let picture = self.dir.join("page.png");
        let _ = std::fs::remove_file(&picture);
        let (size, to) = (format!("--window-size={width},{height}"), format!("--screenshot={}", picture.display()));
        let words = [&[size.as_str(), to.as_str(), "--hide-scrollbars"][..], more].concat();
        let said = self.open(page, &words);
        std::fs::read(&picture).unwrap_or_else(|error| panic!("no picture was taken: {error}\n{}", said.stderr))
    }

    /// The page on paper.
    pub fn pdf(&self, page: &str) -> Vec<u8> {
        let paper = self.dir.join("page.pdf");
        let _ = std::fs::remove_file(&paper);
        let to = format!("--print-to-pdf={}", paper.display());
        let said = self.open(page, &[to.as_str(), "--no-pdf-header-footer"]);
        std::fs::read(&paper).unwrap_or_else(|error| panic!("nothing was printed: {error}\n{}", said.stderr))
    }

    fn open(&self, page: &str, words: &[&str]) -> Finished {
        let file = self.dir.write("page.html", page);
        let profile = format!("--user-data-dir={}", self.dir.create_dir("profile").display());
        let proxy = format!("--proxy-server={}", self.proxy);
        // Without a sandbox: containers seldom allow one, and the page is ours.
        Run::new(&self.program)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .args(["--proxy-bypass-list=<-loopback>", &proxy, &profile])
            .args(words)
            .arg(format!("file://{}", file.display()))
            .env("HOME", self.dir.path().display().to_string())
            .in_dir(self.dir.path())
            .timeout(TIMEOUT)
            .success()
    }
}

fn find() -> Option<PathBuf> {
    const NAMES: [&str; 4] = ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"];
    let named = std::env::var_os("BARBACK_CHROMIUM").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path: Vec<PathBuf> =
        std::env::split_paths(&path).flat_map(|dir| NAMES.iter().map(move |name| dir.join(name))).collect();
    let fetched = tools_dirs().map(|dir| dir.join("chromium/chromium"));
    named.into_iter().chain(on_path).chain(fetched).find(|program| answers(program))
}

fn answers(program: &Path) -> bool {
    program.is_file() && Run::new(program).args(["--headless", "--no-sandbox", "--version"]).run().code() == 0
}
