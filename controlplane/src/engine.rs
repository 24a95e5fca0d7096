//! What the gateway's workers stand on: sockets, XDP program, kernel port, memory and cores, put together by a
//! [`Plan`].
//!
//! Order of things: sockets first (they are what most often cannot be had), then the kernel port, the XDP program, and
//! last the workers. Everything is owned by a value that undoes it when dropped, so a failure on the way, or the end,
//! leaves nothing behind. A change of port builds the new sockets before it touches the old workers.

mod error;
mod host;
pub mod plan;
mod tunnel;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam::channel::TrySendError;
use linegate_aead::Backend;
use linegate_dataplane::command::{Command, Reporter, WorkerHandle};
use linegate_dataplane::drop::DropReason;
use linegate_dataplane::memory::Arena;
use linegate_dataplane::stats::WorkerStats;
use linegate_dataplane::underlay::Underlay;
use linegate_dataplane::underlay::next_hop::NextHopTable;
use linegate_dataplane::underlay::udp::{HandshakeSender, UdpConfig, UdpSockets, UdpUnderlay, bind_group};
use linegate_dataplane::underlay::xdp::{CopyChoice, TransmitChoice, XdpConfig, XdpUnderlay};
use linegate_dataplane::worker::{Worker, WorkerConfig};
use linegate_ebpf::{AttachMode, ModeChoice, Steering, SteeringConfig};

pub use self::error::EngineError;
pub use self::host::Host;
use self::plan::{Nic, NicQueue, Plan};
use self::tunnel::Tunnel;
use crate::config::{CopyChoice as CopySetting, Settings, TransmitChoice as TransmitSetting, XdpMode};
use crate::netlink::Netlink;
use crate::status::{WorkerStatus, XdpStatus};

/// Arena bytes beyond what the parts ask for: alignment between them.
const ARENA_SLACK_BYTES: usize = 1 << 20;

/// UMEM frames of one AF_XDP socket (4 KiB each).
const XDP_FRAMES: u32 = 8192;

/// A NIC with the program on it.
struct Program {
    nic: Nic,
    steering: Steering,
    mode: AttachMode,
    zero_copy: bool,
    transmits_by_xdp: bool,
}

/// The programs, shared by the engine (sockets) and the gateway (indices), which run in one thread.
type Programs = std::rc::Rc<std::cell::RefCell<Vec<Program>>>;

struct Running {
    handle: WorkerHandle,
    thread: Option<JoinHandle<()>>,
    stats: Arc<WorkerStats>,
    status: WorkerStatus,
}

/// Everything the workers stand on. Dropping it ends them and takes it all away.
pub struct Engine {
    workers: Vec<Running>,
    /// Each worker's counters; they go on when another port is opened.
    stats: Vec<Arc<WorkerStats>>,
    programs: Programs,
    tunnel: Tunnel,
    sockets: Vec<UdpSockets>,
    port: u16,
    fwmark: u32,
    mtu: u16,
    settings: Settings,
    plan: Plan,
    reporter: Reporter,
    next_hops: Arc<NextHopTable>,
    aead: Backend,
}

/// What to start.
pub struct Start<'a> {
    /// The tunnel interface's name.
    pub interface: &'a str,
    /// The settings.
    pub settings: &'a Settings,
    /// UDP port; 0 for any.
    pub port: u16,
    /// Mark on outer packets; 0 for none.
    pub fwmark: u32,
    /// The tunnel's MTU in bytes.
    pub mtu: u16,
    /// Where workers report.
    pub reporter: Reporter,
}

/// Builds and starts everything.
///
/// # Errors
/// [`EngineError`]; nothing is left behind.
pub async fn start(start: Start<'_>, netlink: &Netlink) -> Result<(Engine, Vec<WorkerHandle>, Host), EngineError> {
    let plan = plan::make(start.settings, netlink).await?;
    let fall_back = plan.needs_zero_copy;
    let kernel_port = plan.kernel_port.clone();
    match start_as(&start, plan, netlink).await {
        Err(error @ (EngineError::Program { .. } | EngineError::Socket { .. })) if fall_back => {
            tracing::warn!(%error, "AF_XDP was to be used and cannot be: UDP sockets instead");
            let plan = plan::udp(start.settings, kernel_port, &error.to_string());
            start_as(&start, plan, netlink).await
        }
        other => other,
    }
}

async fn start_as(
    start: &Start<'_>,
    plan: Plan,
    netlink: &Netlink,
) -> Result<(Engine, Vec<WorkerHandle>, Host), EngineError> {
    let count = plan.workers.len();
    let (group, port) = bind_group(&UdpConfig { port: start.port, fwmark: start.fwmark, workers: count })?;
    let tunnel = Tunnel::create(&plan.kernel_port.chosen, start.interface, count, start.mtu, netlink).await?;
    let mut engine = Engine {
        workers: Vec::new(),
        stats: Vec::new(),
        programs: Programs::default(),
        tunnel,
        sockets: Vec::new(),
        port,
        fwmark: start.fwmark,
        mtu: start.mtu,
        settings: start.settings.clone(),
        plan,
        reporter: start.reporter.clone(),
        next_hops: Arc::new(NextHopTable::new()),
        aead: Backend::Ring,
    };
    engine.load_programs(netlink).await?;
    let (handles, host) = engine.start_workers(group)?;
    let Choices { io, kernel_port } = engine.choices();
    tracing::info!(
        interface = start.interface, port, io, kernel_port, workers = handles.len(), aead = ?engine.aead,
        reason = engine.plan.io.reason, "the gateway is up"
    );
    Ok((engine, handles, host))
}

struct Choices<'a> {
    io: &'a str,
    kernel_port: &'a str,
}

impl Engine {
    /// Opens another port: new sockets, new workers. The gateway is given what is returned.
    ///
    /// # Errors
    /// If the port cannot be had, everything is as before ([`EngineError::Udp`]). Later failures leave no workers.
    pub fn rebind(&mut self, port: u16) -> Result<(Vec<WorkerHandle>, Host), EngineError> {
        let workers = self.plan.workers.len();
        let (group, port) = bind_group(&UdpConfig { port, fwmark: self.fwmark, workers })?;
        self.stop_workers();
        self.port = port;
        for program in self.programs.borrow_mut().iter_mut() {
            let nic = program.nic.name.clone();
            program.steering.set_port(port).map_err(|source| EngineError::Program { nic, source })?;
        }
        self.start_workers(group)
    }

    /// Marks all outer packets from now on.
    ///
    /// # Errors
    /// [`EngineError::Udp`] if the process may not.
    pub fn set_fwmark(&mut self, fwmark: u32) -> Result<(), EngineError> {
        for sockets in &self.sockets {
            sockets.set_fwmark(fwmark)?;
        }
        self.fwmark = fwmark;
        Ok(())
    }

    /// The UDP port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The mark on outer packets.
    #[must_use]
    pub fn fwmark(&self) -> u32 {
        self.fwmark
    }

    /// The tunnel's MTU, in bytes.
    #[must_use]
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// Notes the tunnel's MTU for workers that start later.
    pub fn set_mtu(&mut self, mtu: u16) {
        self.mtu = mtu;
    }

    /// The index of the tunnel interface.
    #[must_use]
    pub fn tunnel_ifindex(&self) -> u32 {
        self.tunnel.ifindex()
    }

    /// The plan that was carried out.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The packet cipher's backend.
    #[must_use]
    pub fn aead(&self) -> Backend {
        self.aead
    }

    /// The table that AF_XDP transmit reads its next hops from.
    #[must_use]
    pub fn next_hops(&self) -> &Arc<NextHopTable> {
        &self.next_hops
    }

    /// Whether any worker transmits by AF_XDP, so that next hops are wanted.
    #[must_use]
    pub fn transmits_by_xdp(&self) -> bool {
        self.programs.borrow().iter().any(|program| program.transmits_by_xdp)
    }

    /// Tells the program on this NIC, if there is one, the NIC's present addresses.
    pub fn set_local_addresses(&mut self, ifindex: u32, addresses: &[IpAddr]) {
        for program in self.programs.borrow_mut().iter_mut().filter(|program| program.nic.ifindex == ifindex) {
            if let Err(error) = program.steering.set_local_addresses(addresses) {
                tracing::warn!(nic = program.nic.name, %error, "the NIC's addresses could not be told to XDP");
            }
        }
    }

    /// The workers, for `linegate status`.
    #[must_use]
    pub fn worker_statuses(&self) -> Vec<WorkerStatus> {
        self.workers.iter().map(worker_status).collect()
    }

    /// The XDP programs, for `linegate status`.
    #[must_use]
    pub fn xdp_statuses(&self) -> Vec<XdpStatus> {
        let programs = self.programs.borrow();
        programs
            .iter()
            .map(|program| XdpStatus {
                interface: program.nic.name.clone(),
                mode: program.mode.to_string(),
                zero_copy: program.zero_copy,
                transmits_by_xdp: program.transmits_by_xdp,
                counters: program.steering.counters().unwrap_or_default().into_iter().collect(),
            })
            .collect()
    }

    fn choices(&self) -> Choices<'_> {
        Choices { io: &self.plan.io.chosen, kernel_port: &self.plan.kernel_port.chosen }
    }

    async fn load_programs(&self, netlink: &Netlink) -> Result<(), EngineError> {
        for nic in &self.plan.nics {
            let failed = |source| EngineError::Program { nic: nic.name.clone(), source };
            let config = SteeringConfig { port: self.port, any_address: false, queues: nic.queues };
            let mut steering = Steering::load(&config).map_err(failed)?;
            steering.set_local_addresses(&netlink.addresses(nic.ifindex).await?).map_err(failed)?;
            // Behind the driver there is no zero-copy, and without it `auto` does not want the program.
            let choice =
                if self.plan.needs_zero_copy { ModeChoice::Native } else { mode_choice(self.settings.xdp.mode) };
            let mode = steering.attach(nic.ifindex, &nic.name, choice).map_err(failed)?;
            if mode == AttachMode::Generic {
                plan::check_generic(std::slice::from_ref(nic))?;
            }
            let program = Program { nic: nic.clone(), steering, mode, zero_copy: false, transmits_by_xdp: false };
            self.programs.borrow_mut().push(program);
        }
        Ok(())
    }

    /// Builds all workers, then starts them.
    fn start_workers(&mut self, group: Vec<UdpSockets>) -> Result<(Vec<WorkerHandle>, Host), EngineError> {
        let fail = |index| move |source| EngineError::Worker { index, source };
        let first = group.first().ok_or_else(|| fail(0)(io::ErrorKind::InvalidInput.into()))?;
        let sender = HandshakeSender::new(first).map_err(fail(0))?;
        self.sockets = group.iter().map(UdpSockets::try_clone).collect::<io::Result<_>>().map_err(fail(0))?;
        let mut built = Vec::new();
        for (index, (sockets, queue)) in group.into_iter().zip(self.plan.workers.clone()).enumerate() {
            built.push(self.build_worker(index, sockets, queue)?);
        }
        let mut handles = Vec::new();
        for (index, (worker, running)) in built.into_iter().enumerate() {
            handles.push(running.handle.clone());
            // In the list before it runs, so that a failure further on ends it too.
            self.workers.push(running);
            let thread = worker.spawn().map_err(fail(index))?;
            if let Some(running) = self.workers.last_mut() {
                running.thread = Some(thread);
            }
        }
        Ok((handles, Host { sender, programs: Programs::clone(&self.programs) }))
    }

    fn build_worker(
        &mut self,
        index: usize,
        sockets: UdpSockets,
        queue: Option<NicQueue>,
    ) -> Result<(Worker, Running), EngineError> {
        let fail = |source| EngineError::Worker { index, source };
        let xdp = queue.as_ref().map(|queue| self.xdp_config(queue));
        let bytes = Worker::arena_bytes()
            + UdpUnderlay::arena_bytes()
            + self.tunnel.arena_bytes()
            + xdp.as_ref().map_or(0, XdpUnderlay::arena_bytes)
            + ARENA_SLACK_BYTES;
        let mut arena = Arena::new(bytes).map_err(fail)?;
        let udp = UdpUnderlay::new(sockets, &mut arena).map_err(fail)?;
        let (underlay, nic_queue): (Box<dyn Underlay>, _) = match (xdp, queue) {
            (Some(config), Some(queue)) => {
                let (nic, number) = (config.interface.clone(), config.queue);
                let socket_failed = |source| EngineError::Socket { nic, queue: number, source };
                let underlay =
                    XdpUnderlay::new(config, udp, Arc::clone(&self.next_hops), &mut arena).map_err(socket_failed)?;
                self.connect(&queue, &underlay)?;
                (Box::new(underlay), Some(queue.queue))
            }
            _ => (Box::new(udp), None),
        };
        let kernel_port = self.tunnel.port(index, &mut arena)?;
        let status = WorkerStatus {
            index,
            core: self.core(index, nic_queue.is_some()),
            queue: nic_queue,
            io: if nic_queue.is_some() { "xdp" } else { "udp" }.into(),
            huge_pages: arena.huge_pages(),
            ..WorkerStatus::default()
        };
        let config = WorkerConfig {
            index,
            core: status.core,
            spin: self.settings.spin,
            mtu: self.mtu,
            aead: self.settings.aead,
        };
        if self.stats.len() <= index {
            self.stats.resize_with(index + 1, Arc::default);
        }
        let stats = self.stats.get(index).map(Arc::clone).unwrap_or_default();
        let reporter = self.reporter.clone();
        let (worker, handle) =
            Worker::new(config, arena, underlay, kernel_port, reporter, Arc::clone(&stats)).map_err(fail)?;
        self.aead = worker.aead_backend();
        Ok((worker, Running { handle, thread: None, stats, status }))
    }

    fn xdp_config(&self, queue: &NicQueue) -> XdpConfig {
        let nic = self.plan.nics.get(queue.nic);
        let copy = if self.plan.needs_zero_copy { CopyChoice::ZeroCopy } else { copy_choice(self.settings.xdp.copy) };
        XdpConfig {
            ifindex: nic.map_or(0, |nic| nic.ifindex),
            interface: nic.map(|nic| nic.name.clone()).unwrap_or_default(),
            queue: queue.queue,
            copy,
            transmit: transmit_choice(self.settings.xdp.transmit),
            port: self.port,
            frames: XDP_FRAMES,
        }
    }

    /// Has the program hand this queue's packets to the socket.
    fn connect(&self, queue: &NicQueue, underlay: &XdpUnderlay) -> Result<(), EngineError> {
        let mut programs = self.programs.borrow_mut();
        let Some(program) = programs.get_mut(queue.nic) else { return Ok(()) };
        program.zero_copy = underlay.is_zero_copy();
        program.transmits_by_xdp = underlay.transmits_by_xdp();
        let nic = program.nic.name.clone();
        let fd: RawFd = underlay.socket_fd();
        program.steering.set_socket(queue.queue, fd).map_err(|source| EngineError::Program { nic, source })
    }

    /// The core for a worker: as set; else, for a worker bound to a NIC queue, one after the other.
    fn core(&self, index: usize, on_queue: bool) -> Option<usize> {
        let cores =
            if self.settings.cores.is_empty() && on_queue { allowed_cores() } else { self.settings.cores.clone() };
        cores.get(index.checked_rem(cores.len())?).copied()
    }

    fn stop_workers(&mut self) {
        for running in &self.workers {
            // A worker empties a full queue within a few turns.
            while let Err(TrySendError::Full(_)) = running.handle.send(Command::Stop) {
                std::thread::yield_now();
            }
        }
        for running in self.workers.drain(..) {
            let Running { handle, thread, .. } = running;
            drop(handle);
            if let Some(thread) = thread
                && thread.join().is_err()
            {
                tracing::error!("a worker had panicked");
            }
        }
        self.sockets.clear();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop_workers();
    }
}

const fn mode_choice(mode: XdpMode) -> ModeChoice {
    match mode {
        XdpMode::Auto => ModeChoice::Auto,
        XdpMode::Native => ModeChoice::Native,
        XdpMode::Generic => ModeChoice::Generic,
    }
}

const fn copy_choice(copy: CopySetting) -> CopyChoice {
    match copy {
        CopySetting::Auto => CopyChoice::Auto,
        CopySetting::ZeroCopy => CopyChoice::ZeroCopy,
        CopySetting::Copy => CopyChoice::Copy,
    }
}

const fn transmit_choice(transmit: TransmitSetting) -> TransmitChoice {
    match transmit {
        TransmitSetting::Auto => TransmitChoice::Auto,
        TransmitSetting::Xdp => TransmitChoice::Xdp,
        TransmitSetting::Udp => TransmitChoice::Udp,
    }
}

fn allowed_cores() -> Vec<usize> {
    let Ok(set) = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)) else { return Vec::new() };
    (0..nix::sched::CpuSet::count()).filter(|&core| set.is_set(core).unwrap_or(false)).collect()
}

fn worker_status(running: &Running) -> WorkerStatus {
    let stats = &running.stats;
    let counters = [
        ("underlay_received", &stats.underlay_received),
        ("xdp_received", &stats.xdp_received),
        ("underlay_sent", &stats.underlay_sent),
        ("xdp_sent", &stats.xdp_sent),
        ("opened", &stats.opened),
        ("keepalives_received", &stats.keepalives_received),
        ("hairpinned", &stats.hairpinned),
        ("delivered", &stats.delivered),
        ("kernel_writes", &stats.kernel_writes),
        ("kernel_received", &stats.kernel_received),
        ("sealed", &stats.sealed),
        ("reports_lost", &stats.reports_lost),
        ("busy_turns", &stats.busy_turns),
        ("sleeps", &stats.sleeps),
    ];
    let counters: BTreeMap<String, u64> =
        counters.into_iter().map(|(name, counter)| (name.to_owned(), counter.get())).collect();
    let drops = DropReason::ALL.iter().map(|&reason| (reason.name().to_owned(), stats.drops.get(reason))).collect();
    let frames = [
        ("all", &stats.frames.all),
        ("free", &stats.frames.free),
        ("fill", &stats.frames.fill),
        ("held", &stats.frames.held),
        ("transmit", &stats.frames.transmit),
        ("bad_descriptors", &stats.frames.bad_descriptors),
    ];
    // Without AF_XDP there are none to speak of.
    let frames = frames.into_iter().filter(|_| stats.frames.all.get() > 0);
    let frames = frames.map(|(name, gauge)| (name.to_owned(), gauge.get())).collect();
    WorkerStatus { counters, drops, frames, ..running.status.clone() }
}
