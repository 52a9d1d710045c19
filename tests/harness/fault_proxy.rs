//! A proxy that stands before any HTTP/1.1 server and breaks what passes it, the same way for the same seed.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use super::random::Random;

/// A head longer than this is no request of ours.
const HEAD_LIMIT_BYTES: usize = 64 << 10;

/// What happens to a request, its answer or their connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Trouble {
    /// The connection is reset as soon as it is made.
    Refused,
    /// It is reset before the body, half way through it, or when all was sent; nothing was carried out.
    ResetBeforeBody,
    /// See above.
    ResetInBody,
    /// See above.
    ResetAfterBody,
    /// The request is carried out, and its connection is reset before the answer,
    LostAnswer,
    /// half way through it,
    ResetInAnswer,
    /// or closed there in good order.
    CutAnswer,
    /// It is carried out after a pause.
    Late,
    /// It is never answered.
    Silent,
    /// A status of the server's, with the error code that S3 gives it: 500, 503, 429, 403 and others.
    Status(u16, &'static str),
    /// One byte of the answer's body is another.
    WrongByteInAnswer,
    /// One byte of what was sent is another when it arrives.
    WrongByteInRequest,
    /// The answer comes twice.
    AnsweredTwice,
    /// It is carried out twice, as a proxy on the way does that tries again; the second answer comes.
    CarriedOutTwice,
    /// The answer comes in small pieces.
    Dripping,
    /// The server's clock is an hour ahead in this answer.
    ClockAhead,
}

/// Troubles that pass by themselves, and that every command is expected to sit out.
pub const PASSING: &[Trouble] = &[
    Trouble::Refused,
    Trouble::ResetBeforeBody,
    Trouble::ResetInBody,
    Trouble::ResetAfterBody,
    Trouble::LostAnswer,
    Trouble::ResetInAnswer,
    Trouble::CutAnswer,
    Trouble::Late,
    Trouble::Status(500, "InternalError"),
    Trouble::Status(502, "BadGateway"),
    Trouble::Status(503, "SlowDown"),
    Trouble::Status(429, "TooManyRequests"),
    Trouble::AnsweredTwice,
    Trouble::CarriedOutTwice,
    Trouble::Dripping,
    Trouble::ClockAhead,
];

/// Troubles that may end a command, which then must not say that it has done anything.
pub const ENDING: &[Trouble] = &[
    Trouble::Status(403, "AccessDenied"),
    Trouble::Status(403, "RequestTimeTooSkewed"),
    Trouble::Status(400, "ExpiredToken"),
    Trouble::Status(507, "XMinioStorageFull"),
    Trouble::WrongByteInRequest,
];

/// Which requests meet which trouble.
#[derive(Debug, Clone)]
pub struct FaultPlan {
    /// The same seed gives the same troubles for the same requests, whatever order they come in.
    pub seed: u64,
    /// So many requests in a hundred meet one.
    pub percent: u64,
    /// Of these.
    pub kinds: Vec<Trouble>,
}

/// The proxy, on a free loopback port; gone on drop.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    plan: Option<FaultPlan>,
    is_down: bool,
    /// How often each request was seen, so that its repeats meet another fate.
    seen: BTreeMap<String, u64>,
    met: BTreeMap<Trouble, u64>,
}

impl FaultProxy {
    /// A proxy before the server at `upstream`, `127.0.0.1:PORT` or a URL of it; harmless until it gets a plan.
    pub fn before(upstream: &str) -> Self {
        let upstream = upstream.rsplit("//").next().unwrap_or_default().split('/').next().unwrap_or_default();
        let upstream = upstream.parse().unwrap_or_else(|_| panic!("{upstream} is no address"));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { upstream, state: Mutex::default() });
        runtime.spawn(accept(listener, Arc::clone(&shared)));
        Self { address, shared, runtime: Some(runtime) }
    }

    /// `env`, which leads to the server, leading through the proxy.
    pub fn through(&self, env: &[(String, String)]) -> Vec<(String, String)> {
        let (direct, here) = (self.shared.upstream.to_string(), self.address.to_string());
        env.iter().map(|(name, value)| (name.clone(), value.replace(&direct, &here))).collect()
    }

    /// From now on.
    pub fn break_by(&self, plan: FaultPlan) {
        self.lock().plan = Some(plan);
    }

    /// No faults any more.
    pub fn heal(&self) {
        self.lock().plan = None;
    }

    /// While it is down, every connection is refused, and those that are there break at their next request.
    pub fn set_down(&self, is_down: bool) {
        self.lock().is_down = is_down;
    }

    /// What was met, and how often.
    pub fn met(&self) -> BTreeMap<Trouble, u64> {
        self.lock().met.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.shared.lock()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no panic happens under this lock")
    }

    /// The fate of what is called `name`, this time.
    fn judge(&self, name: &str, may_meet: impl Fn(Trouble) -> bool) -> Option<(Trouble, u64)> {
        let mut state = self.lock();
        if state.is_down {
            return Some((Trouble::Refused, 0));
        }
        let plan = state.plan.clone()?;
        let name = without_chance(name);
        let times = state.seen.entry(name.clone()).or_default();
        *times += 1;
        let mut random = Random(plan.seed ^ hash(&name) ^ (*times << 48));
        let kinds: Vec<Trouble> = plan.kinds.iter().copied().filter(|kind| may_meet(*kind)).collect();
        if kinds.is_empty() || !random.chance(plan.percent) {
            return None;
        }
        let trouble = *random.pick(&kinds);
        *state.met.entry(trouble).or_default() += 1;
        Some((trouble, random.next()))
    }
}

/// The name of a request without what is drawn anew in each run: ids of uploads, of backups and of cursors, signatures.
fn without_chance(name: &str) -> String {
    let mut plain = String::new();
    for part in name.split_inclusive(['/', '&', '?', ' ']) {
        let is_drawn = ["uploadId=", "X-Amz-", "continuation-token=", "sig=", "start-after=", "blockid="]
            .iter()
            .any(|drawn| part.starts_with(drawn));
        let is_id =
            part.len() >= 15 && part.as_bytes()[8] == b'T' && part.bytes().take(8).all(|byte| byte.is_ascii_digit());
        plain.push_str(if is_drawn || is_id { "*" } else { part });
    }
    plain
}

/// FNV-1a.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = 0_u64;
    while let Ok((socket, _)) = listener.accept().await {
        connections += 1;
        let name = format!("connection {connections}");
        if shared.judge(&name, |kind| kind == Trouble::Refused).is_some() {
            reset(&socket);
            continue;
        }
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let _ = socket.set_nodelay(true);
            // A client that goes away is everyday life.
            let _ = serve(Wire::new(socket), &shared).await;
        });
    }
}

fn reset(socket: &TcpStream) {
    // Without lingering, the close that comes next is a reset.
    let _ = socket.set_zero_linger();
}

async fn serve(mut client: Wire, shared: &Shared) -> io::Result<()> {
    let mut server: Option<Wire> = None;
    while let Some(head) = client.head().await? {
        let fate = shared.judge(&first_line(&head), |kind| kind != Trouble::Refused);
        let (trouble, draw) = fate.map_or((None, 0), |(trouble, draw)| (Some(trouble), draw));
        let body = match arrive(&mut client, &head, trouble, draw).await? {
            Arrived::Whole(body) => body,
            Arrived::Answered => continue,
            Arrived::Broken => break,
        };
        let mut answer = exchange(&mut server, shared.upstream, &head, &body).await?;
        if trouble == Some(Trouble::CarriedOutTwice) {
            answer = exchange(&mut server, shared.upstream, &head, &body).await?;
        }
        let ends_connection = answer.ends_connection;
        if !leave(&mut client, answer, trouble, draw).await? || ends_connection {
            break;
        }
    }
    Ok(())
}

/// What became of a request on its way to the server.
enum Arrived {
    /// It has this body.
    Whole(Vec<u8>),
    /// It was answered here.
    Answered,
    /// Its connection is of no use any more.
    Broken,
}

async fn arrive(client: &mut Wire, head: &[u8], trouble: Option<Trouble>, draw: u64) -> io::Result<Arrived> {
    let length = body_length(head, false);
    match (trouble, length) {
        (Some(Trouble::Refused | Trouble::ResetBeforeBody), _) => {
            reset(&client.stream);
            return Ok(Arrived::Broken);
        }
        (Some(Trouble::ResetInBody), Length::Bytes(bytes)) => {
            client.body(Length::Bytes(bytes / 2)).await?;
            reset(&client.stream);
            return Ok(Arrived::Broken);
        }
        _ => {}
    }
    let mut body = client.body(length).await?;
    match trouble {
        Some(Trouble::ResetInBody | Trouble::ResetAfterBody) => {
            reset(&client.stream);
            return Ok(Arrived::Broken);
        }
        Some(Trouble::Silent) => {
            // Until the client gives up.
            let _ = client.stream.read(&mut [0]).await;
            return Ok(Arrived::Broken);
        }
        Some(Trouble::Status(status, code)) => {
            client.stream.write_all(&refusal(head, status, code)).await?;
            return Ok(Arrived::Answered);
        }
        Some(Trouble::Late) => tokio::time::sleep(Duration::from_millis(200 + draw % 1500)).await,
        Some(Trouble::WrongByteInRequest) => flip(&mut body, draw),
        _ => {}
    }
    Ok(Arrived::Whole(body))
}

/// Sends an answer back; true while the connection is of use.
async fn leave(client: &mut Wire, answer: Answer, trouble: Option<Trouble>, draw: u64) -> io::Result<bool> {
    let Answer { mut head, mut body, .. } = answer;
    match trouble {
        Some(Trouble::WrongByteInAnswer) => flip(&mut body, draw),
        Some(Trouble::ClockAhead) => head = with_clock_ahead(&head),
        _ => {}
    }
    head.extend_from_slice(&body);
    match trouble {
        Some(Trouble::LostAnswer) => {
            reset(&client.stream);
            return Ok(false);
        }
        Some(Trouble::ResetInAnswer | Trouble::CutAnswer) => {
            client.stream.write_all(&head[..head.len() / 2]).await?;
            if trouble == Some(Trouble::ResetInAnswer) {
                reset(&client.stream);
            }
            return Ok(false);
        }
        Some(Trouble::AnsweredTwice) => head.extend_from_within(..),
        Some(Trouble::Dripping) => {
            for piece in head.chunks((head.len() / 40).max(1)) {
                client.stream.write_all(piece).await?;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            return Ok(true);
        }
        _ => {}
    }
    client.stream.write_all(&head).await?;
    Ok(true)
}

fn flip(body: &mut [u8], draw: u64) {
    if !body.is_empty() {
        let at = usize::try_from(draw).unwrap_or(0) % body.len();
        body[at] ^= 1 << (draw >> 60 & 7);
    }
}

struct Answer {
    head: Vec<u8>,
    body: Vec<u8>,
    ends_connection: bool,
}

/// One request and its answer, on a connection that is made anew where the server has closed it.
async fn exchange(server: &mut Option<Wire>, upstream: SocketAddr, head: &[u8], body: &[u8]) -> io::Result<Answer> {
    let is_new = server.is_none();
    match exchange_once(server, upstream, head, body).await {
        Err(_) if !is_new => {
            *server = None;
            exchange_once(server, upstream, head, body).await
        }
        outcome => outcome,
    }
}

async fn exchange_once(
    server: &mut Option<Wire>,
    upstream: SocketAddr,
    head: &[u8],
    body: &[u8],
) -> io::Result<Answer> {
    let wire = match server {
        Some(wire) => wire,
        None => server.insert(Wire::new(TcpStream::connect(upstream).await?)),
    };
    wire.stream.write_all(head).await?;
    wire.stream.write_all(body).await?;
    let answer = wire.head().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let is_bodiless = head.starts_with(b"HEAD ")
        || [" 204", " 304", " 1"].iter().any(|status| first_line(&answer)[8..].starts_with(status));
    let length = if is_bodiless { Length::Bytes(0) } else { body_length(&answer, true) };
    let body = wire.body(length).await?;
    let ends_connection = length == Length::UntilEnd;
    if ends_connection || header(&answer, "connection").is_some_and(|said| said.eq_ignore_ascii_case("close")) {
        *server = None;
    }
    Ok(Answer { head: answer, body, ends_connection })
}

/// How a message's body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    Bytes(usize),
    Chunks,
    UntilEnd,
}

fn body_length(head: &[u8], is_answer: bool) -> Length {
    if header(head, "transfer-encoding").is_some_and(|said| said.eq_ignore_ascii_case("chunked")) {
        return Length::Chunks;
    }
    match header(head, "content-length").and_then(|length| length.parse().ok()) {
        Some(bytes) => Length::Bytes(bytes),
        None if is_answer => Length::UntilEnd,
        None => Length::Bytes(0),
    }
}

fn first_line(head: &[u8]) -> String {
    String::from_utf8_lossy(head).lines().next().unwrap_or_default().to_owned()
}

fn header(head: &[u8], name: &str) -> Option<String> {
    String::from_utf8_lossy(head).lines().skip(1).find_map(|line| {
        let (known, value) = line.split_once(':')?;
        known.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}

fn refusal(head: &[u8], status: u16, code: &str) -> Vec<u8> {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>a fault that was asked for\
         </Message></Error>"
    );
    let sent = if head.starts_with(b"HEAD ") { "" } else { &body };
    format!("HTTP/1.1 {status} Fault\r\nContent-Type: application/xml\r\nContent-Length: {}\r\n\r\n{sent}", body.len())
        .into_bytes()
}

fn with_clock_ahead(head: &[u8]) -> Vec<u8> {
    let date = (Utc::now() + TimeDelta::hours(1)).format("%a, %d %b %Y %H:%M:%S GMT");
    let head = String::from_utf8_lossy(head);
    let lines = head.split("\r\n").map(|line| match line.split_once(':') {
        Some((name, _)) if name.eq_ignore_ascii_case("date") => format!("{name}: {date}"),
        _ => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\r\n").into_bytes()
}

/// One side of a connection, with what was read ahead of it.
struct Wire {
    stream: TcpStream,
    ahead: Vec<u8>,
}

impl Wire {
    fn new(stream: TcpStream) -> Self {
        let _ = stream.set_nodelay(true);
        Self { stream, ahead: Vec::new() }
    }

    /// Everything up to the blank line, with it; none where the other side has closed.
    async fn head(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut looked = 0;
        loop {
            if let Some(at) = self.ahead[looked..].windows(4).position(|four| four == b"\r\n\r\n") {
                let rest = self.ahead.split_off(looked + at + 4);
                return Ok(Some(std::mem::replace(&mut self.ahead, rest)));
            }
            looked = self.ahead.len().saturating_sub(3);
            if self.ahead.len() > HEAD_LIMIT_BYTES {
                return Err(io::ErrorKind::InvalidData.into());
            }
            if self.more().await? == 0 {
                return Ok(None);
            }
        }
    }

    async fn body(&mut self, length: Length) -> io::Result<Vec<u8>> {
        match length {
            Length::Bytes(bytes) => self.exactly(bytes).await,
            Length::UntilEnd => {
                while self.more().await? > 0 {}
                Ok(std::mem::take(&mut self.ahead))
            }
            Length::Chunks => {
                let mut body = Vec::new();
                loop {
                    let line = self.line().await?;
                    let size = String::from_utf8_lossy(&line);
                    let size = size.split(';').next().unwrap_or_default().trim();
                    let size = usize::from_str_radix(size, 16).map_err(|_| io::ErrorKind::InvalidData)?;
                    body.extend_from_slice(&line);
                    body.extend(self.exactly(size + 2).await?);
                    if size == 0 {
                        return Ok(body);
                    }
                }
            }
        }
    }

    async fn line(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = self.ahead.iter().position(|byte| *byte == b'\n') {
                let rest = self.ahead.split_off(at + 1);
                return Ok(std::mem::replace(&mut self.ahead, rest));
            }
            if self.more().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn exactly(&mut self, bytes: usize) -> io::Result<Vec<u8>> {
        while self.ahead.len() < bytes {
            if self.more().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let rest = self.ahead.split_off(bytes);
        Ok(std::mem::replace(&mut self.ahead, rest))
    }

    async fn more(&mut self) -> io::Result<usize> {
        self.ahead.reserve(64 << 10);
        self.stream.read_buf(&mut self.ahead).await
    }
}
