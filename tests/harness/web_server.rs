//! A web server that answers as it is told: a metadata service, a token service, a proxy that goes nowhere.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use futures::StreamExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder as Connections;
use s3s::Body;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use super::s3_server::Seen;

/// Status and body for a request and its body.
type Rule = dyn Fn(&Seen, &str) -> (u16, String) + Send + Sync;

/// A server on a free loopback port; gone on drop.
#[derive(Debug)]
pub struct WebServer {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    runtime: Option<Runtime>,
}

impl WebServer {
    /// A server that answers each request with what `rule` says.
    pub fn start(rule: impl Fn(&Seen, &str) -> (u16, String) + Send + Sync + 'static) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(accept(listener, Arc::new(rule), Arc::clone(&seen)));
        Self { address, seen, runtime: Some(runtime) }
    }

    /// `127.0.0.1:PORT`
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// `http://127.0.0.1:PORT`
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<Seen> {
        self.seen.lock().expect("no panic happens under this lock").clone()
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept(listener: TcpListener, rule: Arc<Rule>, seen: Arc<Mutex<Vec<Seen>>>) {
    while let Ok((socket, _)) = listener.accept().await {
        let (rule, seen) = (Arc::clone(&rule), Arc::clone(&seen));
        tokio::spawn(async move {
            let answer = service_fn(move |request| serve(request, Arc::clone(&rule), Arc::clone(&seen)));
            let _ = Connections::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), answer).await;
        });
    }
}

async fn serve(
    request: Request<Incoming>,
    rule: Arc<Rule>,
    seen: Arc<Mutex<Vec<Seen>>>,
) -> Result<Response<Body>, Infallible> {
    let request_seen = Seen::of(&request);
    let (mut stream, mut body) = (Body::from(request.into_body()), Vec::new());
    while let Some(Ok(chunk)) = stream.next().await {
        body.extend_from_slice(&chunk);
    }
    let (status, answer) = rule(&request_seen, &String::from_utf8_lossy(&body));
    seen.lock().expect("no panic happens under this lock").push(request_seen);
    Ok(Response::builder().status(status).body(Body::from(answer)).unwrap())
}
