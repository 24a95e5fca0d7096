//! The worker: one core, one underlay queue, one kernel-port queue, every packet run to completion.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use arrayvec::ArrayVec;
use crossbeam::channel;
use linegate_aead::{Aead, Backend};
use linegate_wire::ids::PeerId;
use linegate_wire::time::Instant;

use crate::allowed_ips::{AllowedIps, LastLookup};
use crate::batch::{ReceiveBatch, SendBatch, TransmitBatch};
use crate::clock::Clock;
use crate::command::{Command, Commands, Report, Reporter, WorkerHandle};
use crate::drop::DropReason;
use crate::fairness::Fairness;
use crate::hairpin::{Hairpin, HostRoutes};
use crate::idle::Idle;
use crate::kernel_port::KernelPort;
use crate::limits::{
    BATCH_MAX, COMMAND_QUEUE_MAX, COMMANDS_PER_TURN_MAX, HEADROOM_BYTES, INNER_PACKET_MAX_BYTES, TAILROOM_BYTES,
};
use crate::memory::{Arena, Region};
use crate::peers::Peers;
use crate::policy::Policy;
use crate::receive::{self, Ways};
use crate::send::{self, Outbound, Sealing, Turn, Undeliverable};
use crate::session_table::SessionTable;
use crate::staged::StagedRoom;
use crate::stats::WorkerStats;
use crate::underlay::Underlay;
use crate::wake::Wake;

/// Slots for packets that the worker itself makes or kept: keepalives, staged packets, ICMP errors.
const OWN_SLOTS: usize = 16;
const OWN_SLOT_BYTES: usize = HEADROOM_BYTES + INNER_PACKET_MAX_BYTES + TAILROOM_BYTES;

/// At most one ICMP error a millisecond and worker.
const ICMP_INTERVAL: Duration = Duration::from_millis(1);

/// How a worker is to run.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Its number, from 0.
    pub index: usize,
    /// The core it is pinned to, if any.
    pub core: Option<usize>,
    /// How long it looks for packets before it sleeps.
    pub spin: Duration,
    /// The tunnel interface's MTU in bytes.
    pub mtu: u16,
    /// The AEAD backend; the best one if none is named.
    pub aead: Option<Backend>,
}

/// One worker, before and while it runs.
pub struct Worker {
    config: WorkerConfig,
    clock: Clock,
    arena: Arena,
    underlay: Box<dyn Underlay>,
    kernel_port: Box<dyn KernelPort>,
    received: Box<ReceiveBatch>,
    outbound: Box<SendBatch>,
    sealing: Box<Sealing>,
    transmit: Box<TransmitBatch>,
    sessions: SessionTable,
    peers: Peers,
    routes: AllowedIps,
    aead: Aead,
    commands: Commands,
    reporter: Reporter,
    stats: Arc<WorkerStats>,
    idle: Idle,
    own_slots: [Region; OWN_SLOTS],
    hairpin_slots: Vec<Region>,
    staged_room: Arc<StagedRoom>,
    host_routes: Option<Arc<HostRoutes>>,
    policy: Option<Arc<Policy>>,
    fairness: Fairness,
    last_icmp: Option<Instant>,
    stopping: bool,
}

impl Worker {
    /// Arena bytes the worker takes for itself.
    #[must_use]
    pub const fn arena_bytes() -> usize {
        (OWN_SLOTS + BATCH_MAX) * OWN_SLOT_BYTES.next_multiple_of(64) + 4096
    }

    /// Puts a worker together; nothing runs yet. It counts in `stats`, on top of what is there.
    ///
    /// # Errors
    /// When the arena is too small, an eventfd cannot be had, or the CPU lacks the backend asked for.
    pub fn new(
        config: WorkerConfig,
        mut arena: Arena,
        underlay: Box<dyn Underlay>,
        kernel_port: Box<dyn KernelPort>,
        reporter: Reporter,
        stats: Arc<WorkerStats>,
    ) -> io::Result<(Self, WorkerHandle)> {
        let aead = match config.aead {
            Some(backend) => Aead::with_backend(backend).map_err(io::Error::other)?,
            None => Aead::detect(),
        };
        let mut own_slots = [Region::default(); OWN_SLOTS];
        for slot in &mut own_slots {
            *slot = arena.reserve(OWN_SLOT_BYTES, 64)?;
        }
        let hairpin_slots = (0..BATCH_MAX).map(|_| arena.reserve(OWN_SLOT_BYTES, 64)).collect::<io::Result<_>>()?;
        let wake = Arc::new(Wake::new()?);
        let (sender, queue) = channel::bounded(COMMAND_QUEUE_MAX);
        let handle = WorkerHandle::new(sender, Arc::clone(&wake));
        let mut descriptors: Vec<RawFd> = vec![wake.as_raw_fd()];
        descriptors.extend(underlay.wait_descriptors());
        descriptors.extend(kernel_port.wait_descriptors());
        let worker = Self {
            idle: Idle::new(&descriptors, config.spin),
            config,
            clock: Clock,
            arena,
            underlay,
            kernel_port,
            received: Box::default(),
            outbound: Box::default(),
            sealing: Box::default(),
            transmit: Box::default(),
            sessions: SessionTable::new(),
            peers: Peers::default(),
            routes: AllowedIps::new(),
            aead,
            commands: Commands { queue, wake },
            reporter,
            stats,
            own_slots,
            hairpin_slots,
            staged_room: Arc::default(),
            host_routes: None,
            policy: None,
            fairness: Fairness::default(),
            last_icmp: None,
            stopping: false,
        };
        Ok((worker, handle))
    }

    /// The AEAD backend in use.
    #[must_use]
    pub fn aead_backend(&self) -> Backend {
        self.aead.backend()
    }

    /// Runs on a thread of its own until [`Command::Stop`].
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn spawn(mut self) -> io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name(format!("linegate-w{}", self.config.index)).spawn(move || {
            if let Some(id) = self.config.core
                && !core_affinity::set_for_current(core_affinity::CoreId { id })
            {
                tracing::warn!(worker = self.config.index, core = id, "the worker could not be pinned to its core");
            }
            self.run();
        })
    }

    /// THE LOOP. It allocates only while peers wait for handshakes, and waits only in `idle`.
    fn run(&mut self) {
        while !self.stopping {
            let now = self.clock.now();
            let moved = self.turn(now);
            self.apply_commands(now);
            if self.underlay.has_pending() || self.kernel_port.has_pending() || !self.commands.queue.is_empty() {
                continue;
            }
            if self.idle.after(moved, &mut *self.underlay, &self.stats) {
                self.commands.wake.clear();
            }
        }
    }

    /// Moves what there is, both ways; says how many packets.
    pub fn turn(&mut self, now: Instant) -> usize {
        let moved = self.receive(now) + self.send(now);
        self.stats.busy_turns.add(u64::from(moved > 0));
        moved
    }

    /// Underlay to kernel.
    fn receive(&mut self, now: Instant) -> usize {
        self.underlay.receive(&mut self.arena, &mut self.received, &self.stats);
        let count = self.received.datagrams.len();
        self.fairness.begin(self.received.datagrams.is_full(), now);
        if count > 0 {
            let transports = receive::classify(&self.arena, &self.received, &self.reporter, &self.stats);
            let mut openings = receive::resolve(&transports, &self.sessions, now, &self.stats);
            if self.fairness.watches() {
                receive::share(&mut openings, &mut self.peers, &mut self.fairness, &self.stats);
            }
            receive::open(&mut openings, &mut self.arena, &mut self.aead, &self.peers, &self.stats);
            receive::accept(&mut openings, &self.peers, &self.stats);
            let mut confirmed = ArrayVec::new();
            receive::note_authenticated(
                &openings,
                &self.received,
                &mut self.peers,
                &self.reporter,
                now,
                &self.stats,
                &mut confirmed,
            );
            if self.peers.any_limited() {
                receive::limit(&mut openings, &self.peers, now, &self.stats);
            }
            let hairpin = self.host_routes.as_deref();
            let hairpin = hairpin.map(|host| Hairpin::new(host, &self.peers, self.config.mtu, &self.hairpin_slots));
            let ways =
                Ways { routes: &self.routes, peers: &self.peers, policy: self.policy.as_deref(), stats: &self.stats };
            let unwrapped = receive::unwrap(&openings, &self.received, &mut self.arena, &ways, hairpin);
            drop(openings);
            self.kernel_port.deliver(&mut self.arena, &unwrapped.to_host, &self.stats);
            // Before what came with the confirmation, some of which may be of a flow that waited for it.
            for peer in confirmed {
                self.send_staged(peer, now);
            }
            if !unwrapped.to_peers.is_empty() {
                self.seal_and_transmit(&unwrapped.to_peers, now);
            }
            self.stats.hairpinned.add(unwrapped.to_peers.len() as u64);
            self.received.clear();
        }
        self.underlay.release(&mut self.arena);
        count
    }

    /// Kernel to underlay.
    fn send(&mut self, now: Instant) -> usize {
        self.kernel_port.receive(&mut self.arena, &mut self.outbound, &self.stats);
        let count = self.outbound.packets.len();
        if count > 0 {
            let mut routed = ArrayVec::<Outbound, BATCH_MAX>::new();
            let mut last = LastLookup::default();
            for index in 0..count {
                let Some(&packet) = self.outbound.packets.get(index) else { break };
                let bytes = self.arena.bytes(packet);
                let peer_of = |address| last.lookup(&self.routes, address);
                match send::route(bytes, packet, self.config.mtu, peer_of, &self.peers) {
                    Ok(outbound) => drop(routed.try_push(outbound)),
                    Err((reason, answer)) => {
                        self.stats.dropped(reason);
                        self.answer(packet, answer, now);
                    }
                }
            }
            self.seal_and_transmit(&routed, now);
            self.outbound.packets.clear();
        }
        self.kernel_port.release(&mut self.arena);
        count
    }

    /// Seals packets of any peers, at most a batch, and sends them in order.
    fn seal_and_transmit(&mut self, outbound: &[Outbound], now: Instant) {
        let turn = Turn {
            now,
            mtu: self.config.mtu,
            reporter: &self.reporter,
            stats: &self.stats,
            staged_room: &self.staged_room,
        };
        debug_assert!(outbound.len() <= self.sealing.room());
        for run in outbound.chunk_by(|a, b| a.peer == b.peer) {
            self.sealing.prepare(run, &self.arena, &mut self.peers, &turn);
        }
        self.sealing.seal(&mut self.arena, &mut self.aead, &self.peers, &mut self.transmit, &self.stats);
        self.underlay.transmit(&mut self.arena, &self.transmit, &self.stats);
        self.transmit.clear();
    }

    /// Sends what waited for this peer's handshake; a peer that still has no keypair keeps its packets.
    fn send_staged(&mut self, id: PeerId, now: Instant) {
        loop {
            let mut batch = ArrayVec::<Outbound, OWN_SLOTS>::new();
            let Some(peer) = self.peers.get_mut(id) else { return };
            if peer.usable(now).is_none() {
                return;
            }
            for slot in &self.own_slots {
                let Some(packet) = peer.staged.pop() else { break };
                if let Some(region) = put_in_slot(&mut self.arena, *slot, &packet) {
                    let ecn = linegate_wire::ip::IpPacket::parse(&packet).map_or(0, |parsed| parsed.ecn().bits());
                    let _ = batch.try_push(Outbound { packet: region, peer: id, ecn });
                }
            }
            if batch.is_empty() {
                return;
            }
            self.seal_and_transmit(&batch, now);
        }
    }

    /// Seals an empty packet.
    fn send_keepalive(&mut self, peer: PeerId, now: Instant) {
        let [slot, ..] = self.own_slots;
        if let Some(packet) = put_in_slot(&mut self.arena, slot, &[]) {
            self.seal_and_transmit(&[Outbound { packet, peer, ecn: 0 }], now);
        }
    }

    /// Tells the sender of an undeliverable packet, by ICMP, at a bounded rate.
    fn answer(&mut self, packet: Region, answer: Option<Undeliverable>, now: Instant) {
        let Some(answer) = answer else { return };
        if self.last_icmp.is_some_and(|last| now.saturating_since(last) < ICMP_INTERVAL) {
            return;
        }
        let [slot, ..] = self.own_slots;
        let mut error = [0u8; linegate_wire::icmp::ERROR_MAX_BYTES];
        let offending = self.arena.bytes(packet);
        let written = match answer {
            Undeliverable::Unreachable => linegate_wire::icmp::host_unreachable(offending, &mut error),
            Undeliverable::TooBig => linegate_wire::icmp::packet_too_big(offending, self.config.mtu, &mut error),
        };
        let Some(error) = written.and_then(|len| error.get(..len)) else { return };
        self.last_icmp = Some(now);
        if let Some(region) = put_in_slot(&mut self.arena, slot, error) {
            self.kernel_port.deliver(&mut self.arena, &[region], &self.stats);
        }
    }

    /// Follows the control plane, a bounded number of steps a turn.
    pub fn apply_commands(&mut self, now: Instant) {
        for _ in 0..COMMANDS_PER_TURN_MAX {
            match self.commands.queue.try_recv() {
                Ok(command) => self.apply(command, now),
                Err(channel::TryRecvError::Empty) => break,
                Err(channel::TryRecvError::Disconnected) => {
                    self.stopping = true;
                    break;
                }
            }
        }
    }

    fn apply(&mut self, command: Command, now: Instant) {
        match command {
            Command::AddPeer { peer, state } => self.peers.insert(peer, state),
            Command::RemovePeer { peer } => {
                let staged = self.peers.remove(peer).map_or(0, |mut gone| gone.staged.purge());
                self.stats.drops.add(DropReason::StagedPurged, staged as u64);
            }
            Command::AddAllowedIp { address, prefix, peer } => drop(self.routes.insert(address, prefix, peer)),
            Command::RemoveAllowedIp { address, prefix, peer } => {
                self.routes.remove(address, prefix, peer);
            }
            Command::InstallKeypair { keypair, current } => {
                let id = keypair.peer;
                self.sessions.insert(Arc::clone(&keypair));
                if current {
                    if let Some(peer) = self.peers.get_mut(id) {
                        peer.current = Some(keypair);
                    }
                    self.send_staged(id, now);
                }
            }
            Command::PromoteKeypair { peer: id, local } => {
                if let (Some(keypair), Some(peer)) = (self.sessions.get(local), self.peers.get_mut(id)) {
                    peer.current = Some(Arc::clone(keypair));
                }
                self.send_staged(id, now);
            }
            Command::RemoveKeypair { peer, local } => {
                self.sessions.remove(local);
                self.peers.retire(peer, local);
            }
            Command::SendKeepalive { peer } => self.send_keepalive(peer, now),
            Command::PurgeStaged { peer } => {
                let staged = self.peers.get_mut(peer).map_or(0, |peer| peer.staged.purge());
                self.stats.drops.add(DropReason::StagedPurged, staged as u64);
            }
            Command::SetTerms { peer, terms } => self.peers.set_terms(peer, terms),
            Command::SetPolicy { policy } => self.policy = policy,
            Command::SetMtu { mtu } => self.config.mtu = mtu,
            Command::SetHostRoutes { routes } => self.host_routes = routes,
            Command::Stop => self.stopping = true,
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let reason = "panicked; its last log lines say where".to_owned();
            let _ = self.reporter.send(Report::Stopped { worker: self.config.index, reason });
        }
    }
}

/// Copies a packet into a slot of our own, with the head- and tailroom that sealing needs.
fn put_in_slot(arena: &mut Arena, slot: Region, packet: &[u8]) -> Option<Region> {
    let headroom = u32::try_from(HEADROOM_BYTES).ok()?;
    let room = slot.len - headroom - u32::try_from(TAILROOM_BYTES).ok()?;
    let len = u32::try_from(packet.len()).ok().filter(|&len| len <= room)?;
    let region = slot.part(headroom, len)?;
    arena.bytes_mut(region).copy_from_slice(packet);
    Some(region)
}
