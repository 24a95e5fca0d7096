//! One gateway from start to end: what it is made of, and the loop around it.
//!
//! Order of the start: lock, settings, tunnel and workers, peers, sockets for `wg` and `linegate status`, addresses;
//! only then is the gateway ready. The loop waits for whatever comes first (a report, a deadline, a request, a change
//! of the host, a signal) and then gives the gateway its turn. Everything made is owned by a value that takes it away
//! again, so every way out of here leaves the host as it was.

mod reload;

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use crossbeam::channel;
use linegate_dataplane::clock::Clock;
use linegate_dataplane::command::Reporter;
use linegate_dataplane::limits::{HANDSHAKE_QUEUE_MAX, REPORT_QUEUE_MAX};
use linegate_wire::constants::MTU_DEFAULT;
use linegate_wire::time::Instant;
use rand::SeedableRng;
use rand::rngs::{StdRng, SysRng};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, Semaphore, mpsc};

use crate::arithmetic::Pool;
use crate::authorise::{self, Authoriser};
use crate::config::{self, Settings, WgConfig};
use crate::daemonize::Readiness;
use crate::engine::{self, Engine, Host, Start};
use crate::gateway::{Gateway, Inbox};
use crate::hairpin::Hairpin;
use crate::instance::{InstanceLock, SocketFile};
use crate::netlink::{Event, Events, Netlink};
use crate::next_hops::{NextHops, TransmitLink};
use crate::settings::{Snapshot, Update};
use crate::status::{self, Document, PeerStatus};
use crate::supervisor::Supervisor;
use crate::uapi;
use crate::{logging, metrics, privileges};

/// Where `wg` looks for userspace implementations.
const UAPI_DIRECTORY: &str = "/var/run/wireguard";

/// Requests from `wg` that may wait for their turn.
const REQUESTS_MAX: usize = 16;

/// `wg`s and readers of the status that are served at a time; more are turned away, so that none can hold up memory.
const CONNECTIONS_MAX: usize = 32;

/// How often, and how long between, a name that is taken is looked at again.
const LEFTOVER_TRIES: u32 = 20;
const LEFTOVER_WAIT: Duration = Duration::from_millis(50);

/// How often destinations without a next hop are looked for, where AF_XDP transmits.
const NEXT_HOP_POLL: Duration = Duration::from_millis(20);

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The tunnel interface.
    pub interface: String,
    /// linegate's own settings.
    pub config: Option<PathBuf>,
    /// The WireGuard configuration.
    pub wg_config: Option<PathBuf>,
}

/// Runs the gateway until it is told to end, or its interface is deleted.
///
/// # Errors
/// Why it could not start, or had to end.
pub async fn run(options: Options, readiness: &mut Readiness) -> anyhow::Result<()> {
    let settings = reload::load_settings(&options)?;
    logging::start(settings.log.as_deref()).map_err(anyhow::Error::msg)?;
    let wg_config = options.wg_config.as_deref().map(config::load_wg).transpose()?;
    privileges::check_basic()?;
    let _lock = InstanceLock::take(&options.interface)?;
    // Signals are caught from here on: whatever is made from now on is also taken away.
    let mut signals = Signals::catch()?;
    let mut daemon = Daemon::start(options, settings, wg_config).await?;
    readiness.ready();
    let mut supervisor = Supervisor::from_environment();
    supervisor.ready();
    daemon.serve(&mut signals, &mut supervisor).await
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    reload: tokio::signal::unix::Signal,
}

impl Signals {
    fn catch() -> anyhow::Result<Self> {
        let catch = |kind| signal(kind).context("catching signals");
        Ok(Self {
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
            reload: catch(SignalKind::hangup())?,
        })
    }
}

/// A running gateway. Fields are dropped in this order: first nobody can ask any more, then the workers end.
struct Daemon {
    uapi: SocketFile,
    status: SocketFile,
    metrics: Option<metrics::Endpoint>,
    gateway: Gateway<Host>,
    engine: Engine,
    next_hops: Option<NextHops>,
    /// When to look what next hops the workers want.
    next_hops_due: Instant,
    hairpin: Option<Hairpin>,
    authoriser: Option<Authoriser>,
    netlink: Netlink,
    events: Events,
    wake: Arc<Notify>,
    options: Options,
    /// The port as it was asked for: 0 lets the host choose, and asking for 0 again keeps the choice.
    wanted_port: u16,
    tunnel_up: bool,
}

/// Whether to go on.
enum Next {
    Go,
    End,
}

impl Daemon {
    async fn start(options: Options, settings: Settings, wg_config: Option<WgConfig>) -> anyhow::Result<Self> {
        let (netlink, events) = Netlink::open()?;
        let interface = options.interface.as_str();
        await_absence(interface, &netlink).await?;
        let update = wg_config.as_ref().map(|config| config.update.clone()).unwrap_or_default();
        let mtu = wg_config.as_ref().and_then(|config| config.mtu).or(settings.mtu).unwrap_or(MTU_DEFAULT);
        let wake = Arc::new(Notify::new());
        let (report_sender, reports) = channel::bounded(REPORT_QUEUE_MAX);
        let (handshake_sender, handshakes) = channel::bounded(HANDSHAKE_QUEUE_MAX);
        let waker = Arc::clone(&wake);
        let waker: Arc<dyn Fn() + Send + Sync> = Arc::new(move || waker.notify_one());
        let pool = Pool::start(&waker).context("starting threads for handshakes")?;
        let reporter = Reporter::new(report_sender, handshake_sender, waker);
        let wanted_port = update.listen_port.unwrap_or(0);
        let start = Start {
            interface,
            settings: &settings,
            port: wanted_port,
            fwmark: update.fwmark.unwrap_or(0),
            mtu,
            reporter,
        };
        let (engine, handles, host) = engine::start(start, &netlink).await?;
        let rng = StdRng::try_from_rng(&mut SysRng).context("seeding the random number generator")?;
        let mut gateway = Gateway::new(rng, Inbox { reports, handshakes }, pool, host);
        gateway.start_workers(handles);
        gateway.count_peers(settings.peer_counters);
        gateway.set_terms(config::compile(&settings.groups, &settings.allow).map_err(anyhow::Error::msg)?);
        gateway.apply(&update, Clock.both())?;
        let authoriser = Authoriser::new(&settings.on_demand, interface);
        gateway.set_on_demand(authoriser.as_ref().map(Authoriser::limits));
        let uapi = SocketFile::listen(Path::new(UAPI_DIRECTORY), 0o700, interface)?;
        let status = SocketFile::listen(Path::new(status::STATUS_DIRECTORY), 0o755, interface)?;
        let metrics = metrics::Endpoint::listen(settings.metrics, settings.metrics_peers_max)
            .await
            .context("the setting `metrics`: listening failed; choose another address or port")?;
        let next_hops = start_next_hops(&engine, &netlink).await?;
        let index = engine.tunnel_ifindex();
        if let Some(config) = &wg_config {
            for &(address, prefix) in &config.addresses {
                netlink.add_address(index, address, prefix).await?;
            }
            netlink.set_up(index).await?;
        }
        Ok(Self {
            uapi,
            status,
            metrics,
            gateway,
            engine,
            next_hops,
            next_hops_due: Clock.now(),
            hairpin: Hairpin::new(settings.hairpin, interface, index, Clock.now()),
            authoriser,
            netlink,
            events,
            wake,
            options,
            wanted_port,
            tunnel_up: wg_config.is_some(),
        })
    }

    async fn serve(&mut self, signals: &mut Signals, supervisor: &mut Supervisor) -> anyhow::Result<()> {
        let (request_sender, mut requests) = mpsc::channel(REQUESTS_MAX);
        let wake = Arc::clone(&self.wake);
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let scrapers = Arc::new(Semaphore::new(metrics::CONNECTIONS_MAX));
        loop {
            let outcome = self.gateway.turn(Clock.both());
            if let Some((worker, reason)) = outcome.stopped.first() {
                bail!("worker {worker} ended: {reason}");
            }
            let more = outcome.more;
            if let Some(authoriser) = &mut self.authoriser {
                authoriser.follow(outcome, &mut self.gateway, Clock.both());
            }
            self.look_at_host().await;
            let deadline = pin!(self.deadline(more));
            let next = tokio::select! {
                biased;
                _ = signals.terminate.recv() => Next::End,
                _ = signals.interrupt.recv() => Next::End,
                () = supervisor.beat() => Next::Go,
                _ = signals.reload.recv() => { self.reload().await; Next::Go }
                event = self.events.next() => match event {
                    Some(event) => self.follow(&event).await,
                    None => bail!("the netlink connection ended"),
                },
                answered = authorise::next(self.authoriser.as_mut()) => {
                    if let Some(authoriser) = &mut self.authoriser {
                        authoriser.settle(answered, &mut self.gateway, Clock.both());
                    }
                    Next::Go
                }
                Some(request) = requests.recv() => { self.answer(request).await?; Next::Go }
                Ok((stream, _)) = self.uapi.listener.accept() => {
                    let requests = request_sender.clone();
                    spawn_limited(&connections, || uapi::serve(stream, requests));
                    Next::Go
                }
                Ok((stream, _)) = self.status.listener.accept() => {
                    spawn_limited(&connections, || status::answer(stream, self.document()));
                    Next::Go
                }
                Ok(stream) = metrics::accept(self.metrics.as_ref()) => {
                    let peers_max = self.metrics.as_ref().map_or(0, metrics::Endpoint::peers_max);
                    spawn_limited(&scrapers, || metrics::answer(stream, self.document(), peers_max));
                    Next::Go
                }
                () = wake.notified() => Next::Go,
                () = deadline => Next::Go,
            };
            if matches!(next, Next::End) {
                tracing::info!("ending");
                return Ok(());
            }
        }
    }

    /// Asks the host what is due to be asked. In every turn: where messages never end, waiting for a deadline would.
    async fn look_at_host(&mut self) {
        let now = Clock.now();
        if let Some(next_hops) = self.next_hops.as_mut().filter(|_| now >= self.next_hops_due) {
            next_hops.serve_wanted(&self.netlink).await;
            self.next_hops_due = now + NEXT_HOP_POLL;
        }
        if let Some(hairpin) = &mut self.hairpin
            && let Some(orders) = hairpin.look(&self.netlink, now).await
        {
            self.gateway.set_host_routes(orders);
        }
    }

    /// Waits until the gateway must have its turn, whatever else happens.
    fn deadline(&self, at_once: bool) -> impl Future<Output = ()> + use<> {
        let now = Clock.now();
        let timers = self.gateway.deadline(now).map(|at| at.saturating_since(now));
        let polling = self.next_hops.is_some().then(|| self.next_hops_due.saturating_since(now));
        let hairpin = self.hairpin.as_ref().map(|hairpin| hairpin.deadline().saturating_since(now));
        let wait = if at_once { Some(Duration::ZERO) } else { [timers, polling, hairpin].into_iter().flatten().min() };
        async move {
            match wait {
                Some(wait) if wait.is_zero() => tokio::task::yield_now().await,
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        }
    }

    async fn answer(&mut self, request: uapi::Request) -> anyhow::Result<()> {
        // Whoever asked may be gone meanwhile.
        match request {
            uapi::Request::Get(answer) => {
                let _ = answer.send(self.snapshot());
            }
            uapi::Request::Set(update, answer) => {
                let result = self.configure(&update).await;
                let errno = result.as_ref().map_or_else(Refused::errno, |()| 0);
                let _ = answer.send(errno);
                if let Err(Refused::Fatal(error)) = result {
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    /// Applies an update as a whole, or not at all.
    async fn configure(&mut self, update: &Update) -> Result<(), Refused> {
        self.gateway.check(update)?;
        let old_mark = self.engine.fwmark();
        let mark = update.fwmark.unwrap_or(old_mark);
        if mark != old_mark {
            self.engine.set_fwmark(mark).map_err(Refused::Kept)?;
        }
        if let Err(refused) = self.change_port(update) {
            if mark != old_mark
                && let Err(error) = self.engine.set_fwmark(old_mark)
            {
                tracing::warn!(%error, "the old fwmark could not be set again");
            }
            return Err(refused);
        }
        if mark != old_mark
            && let Some(next_hops) = &mut self.next_hops
        {
            next_hops.set_fwmark(mark, &self.netlink).await;
        }
        self.gateway.apply(update, Clock.both())?;
        Ok(())
    }

    fn change_port(&mut self, update: &Update) -> Result<(), Refused> {
        let Some(port) = update.listen_port else { return Ok(()) };
        let unchanged = port == self.engine.port() || (port == 0 && self.wanted_port == 0);
        if !unchanged {
            let (handles, host) = self.engine.rebind(port).map_err(|error| {
                let kept = matches!(error, engine::EngineError::Udp(_));
                if kept { Refused::Kept(error) } else { Refused::Fatal(error) }
            })?;
            self.gateway.replace_workers(handles, host);
        }
        self.wanted_port = port;
        Ok(())
    }

    async fn follow(&mut self, event: &Event) -> Next {
        if let Some(next_hops) = &mut self.next_hops {
            next_hops.follow(event, &self.netlink).await;
        }
        if let Some(hairpin) = &mut self.hairpin {
            hairpin.follow(event, Clock.now());
        }
        let tunnel = self.engine.tunnel_ifindex();
        match event {
            Event::LinkGone { index } if *index == tunnel => {
                tracing::info!("the tunnel interface was deleted");
                return Next::End;
            }
            Event::Link(link) if link.index == tunnel => self.follow_tunnel(link.up, link.mtu),
            Event::Addresses { index } => self.tell_addresses(*index).await,
            Event::Overrun => return self.look_again().await,
            Event::Link(_) | Event::LinkGone { .. } | Event::Neighbour(_) | Event::Routes => {}
        }
        Next::Go
    }

    fn follow_tunnel(&mut self, up: bool, mtu: u32) {
        if let Ok(mtu) = u16::try_from(mtu)
            && mtu != self.engine.mtu()
        {
            tracing::info!(mtu, "the tunnel's MTU changed");
            self.engine.set_mtu(mtu);
            self.gateway.set_mtu(mtu);
        }
        if self.tunnel_up && !up {
            tracing::info!("the tunnel went down: session keys are wiped");
            self.gateway.clear_sessions(Clock.both());
        }
        if !self.tunnel_up && up {
            self.gateway.start_keepalives(Clock.both());
        }
        self.tunnel_up = up;
    }

    async fn tell_addresses(&mut self, index: u32) {
        if !self.engine.plan().nics.iter().any(|nic| nic.ifindex == index) {
            return;
        }
        match self.netlink.addresses(index).await {
            Ok(addresses) => self.engine.set_local_addresses(index, &addresses),
            Err(error) => tracing::warn!(%error, "the NIC's addresses could not be listed"),
        }
    }

    /// After notifications were lost: ask for everything anew.
    async fn look_again(&mut self) -> Next {
        for index in self.engine.plan().nics.iter().map(|nic| nic.ifindex).collect::<Vec<_>>() {
            self.tell_addresses(index).await;
        }
        match self.netlink.link_by_index(self.engine.tunnel_ifindex()).await {
            Ok(Some(link)) => self.follow_tunnel(link.up, link.mtu),
            Ok(None) => return Next::End,
            Err(error) => tracing::warn!(%error, "the tunnel interface could not be looked at"),
        }
        Next::Go
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot { listen_port: self.engine.port(), fwmark: self.engine.fwmark(), ..self.gateway.snapshot() }
    }

    fn document(&self) -> Document {
        let plan = self.engine.plan();
        Document {
            version: env!("CARGO_PKG_VERSION").into(),
            interface: self.options.interface.clone(),
            pid: std::process::id(),
            listen_port: self.engine.port(),
            fwmark: self.engine.fwmark(),
            io: plan.io.clone(),
            kernel_port: plan.kernel_port.clone(),
            hairpin: Hairpin::choice(self.hairpin.as_ref()),
            mtu: self.engine.mtu(),
            aead: format!("{:?}", self.engine.aead()).to_lowercase(),
            under_load: self.gateway.is_under_load(),
            handshake_queue: self.gateway.handshake_queue(),
            xdp: self.engine.xdp_statuses(),
            workers: self.engine.worker_statuses(),
            handshakes: self.gateway.handshake_counts().iter().map(|(&name, &n)| (name.to_owned(), n)).collect(),
            on_demand: self.authoriser.as_ref().map(|authoriser| authoriser.status(&self.gateway)),
            peers: self.gateway.snapshot().peers.iter().map(PeerStatus::from).collect(),
        }
    }
}

/// Serves a connection, unless there are too many already: then it is closed.
fn spawn_limited<F: Future<Output = ()> + Send + 'static>(connections: &Arc<Semaphore>, serve: impl FnOnce() -> F) {
    let Ok(permit) = Arc::clone(connections).try_acquire_owned() else {
        tracing::warn!("too many connections to one of our sockets: one was turned away");
        return;
    };
    let served = serve();
    tokio::spawn(async move {
        served.await;
        drop(permit);
    });
}

/// Why an update was not applied.
#[derive(Debug, thiserror::Error)]
enum Refused {
    /// Something in it is wrong.
    #[error(transparent)]
    Invalid(#[from] crate::gateway::apply::ApplyError),
    /// The host refused; everything is as before.
    #[error(transparent)]
    Kept(engine::EngineError),
    /// The host refused half-way: the gateway must end.
    #[error(transparent)]
    Fatal(engine::EngineError),
}

impl Refused {
    /// As the user-space interface gives it.
    fn errno(&self) -> i32 {
        match self {
            Self::Invalid(error) => -error.errno(),
            Self::Kept(error) | Self::Fatal(error) => -error.errno(),
        }
    }
}

/// Refuses a name that is taken; an interface of a process that was just killed may need a moment to go.
async fn await_absence(interface: &str, netlink: &Netlink) -> anyhow::Result<()> {
    for _ in 0..LEFTOVER_TRIES {
        if netlink.link(interface).await?.is_none() {
            return Ok(());
        }
        tokio::time::sleep(LEFTOVER_WAIT).await;
    }
    bail!("interface {interface} exists already: choose another name, or delete it (ip link del {interface})");
}

async fn start_next_hops(engine: &Engine, netlink: &Netlink) -> anyhow::Result<Option<NextHops>> {
    if !engine.transmits_by_xdp() {
        return Ok(None);
    }
    let links = engine.plan().nics.iter().map(|nic| TransmitLink { ifindex: nic.ifindex, mac: nic.mac }).collect();
    let table = Arc::clone(engine.next_hops());
    Ok(Some(NextHops::start(table, links, engine.fwmark(), netlink).await?))
}
