//! The wiring: the only place that knows all parts, and decides nothing.

mod cluster;
mod error;
mod holding;
mod register;
mod rotated;
mod target;

use std::io;
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

pub use cluster::{CA_BUNDLE, InMemory, Unseen, certificate_in_cluster, credential_in_cluster, outlook};
pub use error::AgentError;
pub use target::find_access;

use crate::clock;
use crate::config::{Config, ConfigError};
use crate::job::gate::{self, Gate, KeySettings};
use crate::job::run::{Parts, Runner};
use crate::journal::open::Opened;
use crate::journal::{self, Outbox};
use crate::limits;
use crate::link::backoff::{boot_pause, draw};
use crate::link::budget::Budget;
use crate::link::deliver::{self, Reports};
use crate::link::heart::{self, Heart};
use crate::link::intake::Intake;
use crate::link::present::Present;
use crate::link::rotation;
use crate::link::secret_file::read_one_time_token;
use crate::link::store::AUTHORITIES;
use crate::link::{
    self, Account, BetweenPolls, Credential, CredentialStore, Endpoint, Health, InvalidEndpoint, JobSource, Keeper,
    LongPoll, Provided, StateDirectory, StatusSink, StoreError, Wanted, events, traffic,
};
use crate::metrics::Meter;
use crate::monitor::{self, Monitor};
use crate::net::renewal::TlsFiles;
use crate::net::tls::TlsFileError;
use crate::net::{Profile, Tls};
use crate::secret::Secret;
use crate::shutdown::{self, Stop, Wake};
use crate::status::{Board, Sources, View};
use crate::supervisor::Supervisor;
use crate::target::Target;
use crate::task;

/// An agent that is ready to run.
pub struct Agent {
    config: Config,
    /// The journal, and what else stays on this machine.
    state: Arc<StateDirectory>,
    /// Where the credential is kept.
    store: Arc<dyn CredentialStore>,
    credential: Option<Credential>,
    /// The one-time token, where there is no credential yet.
    token: Option<Arc<Secret>>,
    profile: Profile,
    /// What the owner gave to pin.
    wanted: Option<Wanted>,
    /// Whoever says how it is.
    known: Option<Arc<cluster::Known>>,
    /// What machines are told.
    monitor: Arc<Monitor>,
    /// Whoever started the agent.
    supervisor: Supervisor,
}

/// What signals ask for.
struct Signals {
    stop: Stop,
    wake: Wake,
    rotate: Wake,
}

/// How the control plane is reached.
///
/// # Errors
/// When a CA file cannot be used.
pub fn profile(config: &Config) -> Result<Profile, TlsFileError> {
    let provided = Provided::find().and_then(|provided| provided.ca());
    let files = [config.ca_file.clone(), config.ca_bundle_file.clone(), provided];
    let authorities = files.into_iter().flatten().collect();
    let given = Some(config.state_dir.join(AUTHORITIES));
    let tls = Tls::open(TlsFiles { authorities, client: config.client_certificate.clone(), given })?;
    Ok(Profile { tls, proxy: config.proxy.clone(), plain_http: config.plain_http, meter: Meter::default() })
}

/// The state directory. What is written there is wrapped where systemd provides a key for it.
///
/// # Errors
/// As [`StoreError`] lists them.
pub fn open_store(config: &Config) -> Result<StateDirectory, StoreError> {
    let seal = match Provided::find() {
        Some(provided) => provided.seal()?,
        None => None,
    };
    StateDirectory::open_sealed(&config.state_dir, seal)
}

/// What the owner gave to pin, by the configuration or as a credential of systemd.
///
/// # Errors
/// As [`Wanted::read`].
pub fn wanted(config: &Config) -> Result<Option<Wanted>, StoreError> {
    let file = config.keyring.clone().or_else(|| Provided::find().and_then(|provided| provided.keyring()));
    file.map(|file| Wanted::read(&file)).transpose()
}

/// What is stored, if it belongs to this machine.
fn load(store: &StateDirectory, config: &Config) -> Result<Option<Credential>, AgentError> {
    let Some(mut credential) = store.load().map_err(AgentError::Store)? else { return Ok(None) };
    if link::is_another_machine(&credential) {
        return Err(AgentError::OtherMachine(config.state_dir.clone()));
    }
    // A disk that takes nothing is no reason not to start: the next start tries it again.
    if let Err(error) = store.seal_what_is_open() {
        warn!(%error, "the stored credential could not be wrapped, and stays as it is");
    }
    if link::rebind(&mut credential) {
        info!("the marks of this machine have changed, but it is the same one; they are noted anew");
        if let Err(error) = store.save(&credential) {
            warn!(%error, "the marks of this machine could not be noted");
        }
    }
    Ok(Some(credential))
}

impl Agent {
    /// Reads what there is; connects to nothing yet.
    ///
    /// # Errors
    /// As [`AgentError`] lists them.
    pub fn open(config: Config) -> Result<Self, AgentError> {
        let store = Arc::new(open_store(&config).map_err(AgentError::Store)?);
        if let Err(error) = clock::keep_in(&config.state_dir) {
            warn!(%error, "the floor of the clock cannot be read");
        }
        let goes_by_cluster = config.cluster_resource.is_some();
        let credential = if goes_by_cluster { None } else { load(&store, &config)? };
        if credential.is_none() && !goes_by_cluster && (config.endpoint.is_none() || config.token_file.is_none()) {
            return Err(AgentError::Config(ConfigError::Missing(
                "endpoint or token_file",
                "this node is not registered yet: give both, or run pullet register first",
            )));
        }
        let profile = profile(&config).map_err(AgentError::Tls)?;
        if let Some(credential) = credential.as_ref().filter(|_| config.mtls) {
            credential.certificates.show(&profile.tls);
        }
        // Before signals are handled: reading from a terminal ends with a signal as in any program.
        let token = match &config.token_file {
            Some(file) if credential.is_none() && !goes_by_cluster => {
                Some(Arc::new(read_one_time_token(file, io::stdin()).map_err(AgentError::Store)?))
            }
            _ => None,
        };
        let wanted = wanted(&config).map_err(AgentError::Store)?;
        let supervisor = Supervisor::find(|name| std::env::var_os(name));
        Ok(Self {
            config,
            state: Arc::clone(&store),
            store,
            credential,
            token,
            profile,
            wanted,
            known: None,
            monitor: Arc::default(),
            supervisor,
        })
    }

    /// Runs until a signal, or until another agent takes over.
    ///
    /// # Errors
    /// As [`AgentError`] lists them.
    pub fn run(self) -> Result<(), AgentError> {
        let mut watches = self.config.policy.kinds().len().min(limits::WATCHES);
        if self.config.cluster_resource.is_some() {
            watches += limits::CLUSTER_THREADS;
        }
        #[cfg(feature = "webhook")]
        let watches = watches + if self.config.webhook.is_some() { limits::WEBHOOK_THREADS } else { 0 };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(limits::BASE_THREADS + watches)
            .thread_stack_size(limits::THREAD_STACK_BYTES)
            .thread_name("pullet")
            .build()
            .map_err(AgentError::Runtime)?;
        let ended = runtime.block_on(self.work());
        // A thread may still be connecting; nobody waits for it.
        runtime.shutdown_background();
        ended
    }

    async fn work(mut self) -> Result<(), AgentError> {
        let (stop, wake, rotate) = (Stop::default(), Wake::default(), Wake::default());
        shutdown::listen(stop.clone()).map_err(AgentError::Runtime)?;
        shutdown::listen_for_wakes(wake.clone(), rotate.clone()).map_err(AgentError::Runtime)?;
        task::spawn(self.supervisor.clone().keep(stop.clone()));
        let signals = Signals { stop: stop.clone(), wake: wake.clone(), rotate };
        if let Some(address) = self.config.metrics.take() {
            task::spawn(monitor::serve(address, Arc::clone(&self.monitor)));
        }
        #[cfg(feature = "webhook")]
        target::start_webhook(&self.config, &stop)?;
        if self.config.cluster_resource.is_some() {
            return Box::pin(cluster::run(self, signals)).await;
        }
        let credential = match self.credential.take() {
            Some(credential) => credential,
            None => match self.register(&stop, &wake).await? {
                Some(credential) => credential,
                None => return Ok(()),
            },
        };
        let endpoint = self.endpoint_of(&credential)?;
        let target = target::open_target(&self.config, &credential.cluster_id)?;
        let Some(holding) = holding::begin(&target, &self.state, &stop, &self.supervisor).await else {
            return Ok(());
        };
        self.session(credential, endpoint, target, signals).await?;
        holding::end(holding).await
    }

    /// Holds the line to the control plane until it is time to stop.
    async fn session(
        self,
        credential: Credential,
        endpoint: Endpoint,
        target: Arc<dyn Target>,
        signals: Signals,
    ) -> Result<(), AgentError> {
        let store = Arc::clone(&self.store);
        let aged = task::on_thread(move || credential.aged(store.as_ref()));
        let credential = aged.await.map_err(|interrupted| AgentError::Runtime(io::Error::other(interrupted)))?;
        let opened = self.open_journal().await?;
        let (opened, gate) = self.open_gate(&credential, opened).await?;
        info!(
            version = env!("CARGO_PKG_VERSION"),
            cluster = %credential.cluster_id,
            endpoint = %endpoint,
            target = target.describe(),
            "ready"
        );
        self.supervisor.ready("not connected yet");
        boot_spread(&signals.stop, &signals.wake).await;
        Box::pin(self.serve(credential, endpoint, target, opened, gate, signals)).await;
        Ok(())
    }

    async fn open_journal(&self) -> Result<Opened, AgentError> {
        let (state, size) = (Arc::clone(&self.state), self.config.journal_size);
        let opened = task::on_thread(move || journal::open::open(state.handle(), size, draw()))
            .await
            .map_err(|interrupted| AgentError::Runtime(io::Error::other(interrupted)))?
            .map_err(AgentError::Journal)?;
        for trouble in &opened.troubles {
            error!(%trouble, "the journal is not as it should be");
        }
        Ok(opened)
    }

    async fn open_gate(&self, credential: &Credential, opened: Opened) -> Result<(Opened, Gate), AgentError> {
        let cluster = credential.cluster_id.to_string();
        let policy = self.config.policy.clone();
        let settings = KeySettings { signatures: self.config.signatures, pin: self.wanted.clone() };
        let (keys, store) = (credential.keys.clone(), Arc::clone(&self.store));
        let registered = credential.registered_seconds();
        let opening = task::on_thread(move || {
            let found = opened.restored.kept.trust.as_ref().map(|(_, state)| state.as_slice());
            let quiet_since = opened.restored.kept.last_signed().or(registered);
            let outbox = &opened.outbox;
            let gate = Gate::open(gate::Parts { cluster, policy, settings, keys, store, outbox, found, quiet_since });
            gate.map(|gate| (opened, gate))
        });
        let opened = opening.await.map_err(|interrupted| AgentError::Runtime(io::Error::other(interrupted)))?;
        opened.map_err(AgentError::Pin)
    }

    fn endpoint_of(&self, credential: &Credential) -> Result<Endpoint, AgentError> {
        let stored =
            Endpoint::parse(&credential.endpoint, self.config.plain_http).map_err(|error: InvalidEndpoint| {
                AgentError::Config(ConfigError::Value("endpoint", credential.endpoint.clone(), error.to_string()))
            })?;
        match &self.config.endpoint {
            Some(configured) if configured.origin() != stored.origin() => {
                Err(AgentError::OtherServer(credential.endpoint.clone(), configured.to_string()))
            }
            Some(configured) => Ok(configured.clone()),
            None => Ok(stored),
        }
    }

    #[allow(clippy::too_many_lines, reason = "the one place where all parts meet; each line wires one")]
    async fn serve(
        self,
        credential: Credential,
        endpoint: Endpoint,
        target: Arc<dyn Target>,
        opened: Opened,
        gate: Gate,
        Signals { stop, wake, rotate }: Signals,
    ) {
        let Self { config, state, store, profile, known, monitor, supervisor, .. } = self;
        let cluster_id = credential.cluster_id.clone();
        let bearer = credential.current.clone();
        let endpoint_text = endpoint.to_string();
        let (before, learnt) = traffic::load(&state);
        let budget = Budget::new(config.monthly_budget, profile.meter.clone(), before);
        let hold = Arc::new(Mutex::new(match learnt {
            Some(learnt) => config.hold.knowing(learnt),
            None => config.hold,
        }));
        let counting = task::spawn(traffic::keep(Arc::clone(&state), budget.clone(), Arc::clone(&hold)));
        let last_words = {
            let (budget, hold) = (budget.clone(), Arc::clone(&hold));
            move || traffic::save(&state, &budget, &hold)
        };
        let link = Arc::new(LongPoll::new(endpoint, cluster_id.clone(), bearer, profile));
        let journal_fault = opened.fault();
        let Opened { outbox, restored, .. } = opened;
        let outbox = Arc::new(outbox);
        if !journal_fault.is_empty() {
            events::push_impaired(&outbox, &cluster_id, journal_fault.clone());
        }
        let gate = Arc::new(gate);
        let health = link.report_to(Arc::new(Health::default()));
        let rotated = rotated::on_rotation(rotated::Parts {
            outbox: Arc::clone(&outbox),
            cluster_id: cluster_id.clone(),
            gate: Arc::clone(&gate),
            known: known.clone(),
            health: Arc::clone(&health),
            link: Arc::clone(&link),
            store: Arc::clone(&store),
        });
        let keeper = Keeper::new(Arc::clone(&link), store, credential, rotated);
        let keeper = Arc::new(keeper.wanting_certificate(config.mtls));
        let account = Arc::clone(&keeper) as Arc<dyn Account>;
        if let Some(known) = &known {
            let (health, outbox) = (Arc::clone(&health), Arc::clone(&outbox));
            known.serves(cluster::Line { health, outbox, account: Arc::clone(&account), gate: Arc::clone(&gate) });
        }
        let rotation =
            task::spawn(rotation::keep(Arc::clone(&keeper), Arc::clone(&health), rotate, wake.clone(), stop.clone()));
        let drain = Stop::default();
        let runner = Arc::new(Runner::new(Parts {
            source: Arc::clone(&link) as Arc<dyn JobSource>,
            account: Arc::clone(&account),
            target: Arc::clone(&target),
            outbox: Arc::clone(&outbox),
            gate: Arc::clone(&gate),
            cluster: cluster_id.clone(),
            succeed_on: config.succeed_on,
            ready_timeout: config.ready_timeout,
            stop: stop.clone(),
        }));
        let jobs = runner.restore(restored);
        let observer = task::spawn(observe(Arc::clone(&target), Arc::clone(&runner)));
        let waiter = task::spawn(watch_the_clock(Arc::clone(&runner)));
        let flushing = task::spawn(journal::keep(Arc::clone(&outbox), stop.clone()));
        let silence = task::spawn(events::watch_silence(Arc::clone(&outbox), Arc::clone(&health), cluster_id.clone()));
        let sink = Arc::clone(&link) as Arc<dyn StatusSink>;
        let reports = Reports::new(sink, Arc::clone(&outbox), Arc::clone(&health), budget.clone());
        let reports = Arc::new(reports.between_polls(Arc::new(BetweenPolls(Arc::clone(&link)))));
        let heart = Arc::new(Heart::new(heart::Parts {
            outbox: Arc::clone(&outbox),
            health: Arc::clone(&health),
            budget,
            cluster_id: cluster_id.clone(),
            interval: config.heartbeat_interval,
            trusting: {
                let gate = Arc::clone(&gate);
                Box::new(move || gate.summary())
            },
            left_out: {
                let target = Arc::clone(&target);
                Box::new(move || (target.kinds().0 > 0).then(|| target.left_out()))
            },
        }));
        let beating = task::spawn(Arc::clone(&heart).keep(Arc::clone(&reports)));
        let delivery = task::spawn(deliver::run(Arc::clone(&reports), Arc::clone(&account), drain.clone()));
        let view = Arc::new(View::new(Sources {
            cluster: cluster_id.to_string(),
            endpoint: endpoint_text,
            target: target.describe(),
            health: Arc::clone(&health),
            hold: Arc::clone(&hold),
            outbox: Arc::clone(&outbox),
            reports: Arc::clone(&reports),
            runner: Arc::clone(&runner),
            gate: Arc::clone(&gate),
            keeper,
            observed: Arc::clone(&target),
            cluster_meter: target.meter(),
            journal_fault,
        }));
        monitor.show(Some(Arc::clone(&view)));
        let board = task::spawn(Board::new(config.status_file, supervisor, view).keep());
        let intake = Intake {
            source: Arc::clone(&link) as Arc<dyn JobSource>,
            account,
            reports,
            present: Present::new(
                {
                    let target = Arc::clone(&target);
                    Box::new(move |ticket| target.report_again(ticket))
                },
                Box::new(move || target.unsent()),
            ),
            health,
            hold,
            heart,
            interval: config.poll_interval,
            wake,
            stop: stop.clone(),
        };
        let intake = intake.run(async |answer| runner.work(answer).await);
        let finish = async {
            tokio::join!(intake, Box::pin(runner.resume(jobs)));
            runner.abandon().await;
            drain.set();
            let _ = delivery.await;
        };
        tokio::select! {
            () = finish => info!("stopped"),
            () = out_of_patience(&stop) => warn!(
                reports = outbox.fill().reports,
                events = outbox.fill().events,
                "stopped before everything was posted"
            ),
        }
        close(outbox, flushing, last_words).await;
        counting.abort();
        link.shut();
        observer.abort();
        rotation.abort();
        waiter.abort();
        beating.abort();
        silence.abort();
        board.abort();
        monitor.show(None);
    }
}

async fn watch_the_clock(runner: Arc<Runner>) {
    runner.watch_the_clock().await;
}

async fn observe(target: Arc<dyn Target>, runner: Arc<Runner>) {
    let (sink, mut observations) = mpsc::channel(limits::OBSERVATIONS_WAITING);
    let observing = target.observe(sink);
    let handling = async {
        while let Some(observation) = observations.recv().await {
            runner.observed(&observation).await;
        }
    };
    tokio::join!(observing, handling);
}

/// What waits goes to the disk, with the mark of a clean stop.
async fn close(outbox: Arc<Outbox>, flushing: JoinHandle<()>, last_words: impl FnOnce() + Send + 'static) {
    let closing = async {
        // It ends by itself.
        let _ = flushing.await;
        let _ = task::on_thread(move || {
            outbox.close();
            last_words();
        })
        .await;
    };
    if tokio::time::timeout(limits::STOP_CLOSE, closing).await.is_err() {
        warn!("the disk took too long: the next start takes this for a power cut");
    }
}

/// A call that is under way when it is time to stop gets a while to be answered.
async fn out_of_patience(stop: &Stop) {
    stop.wait().await;
    tokio::time::sleep(limits::STOP_DRAIN).await;
}

/// After a power cut a whole street comes back at once.
async fn boot_spread(stop: &Stop, wake: &Wake) {
    let Some(pause) = boot_pause(clock::uptime(), draw()) else { return };
    info!(pause_s = pause.as_secs(), "this node has just booted: the first poll follows after a pause");
    tokio::select! {
        () = tokio::time::sleep(pause) => {}
        () = wake.wait() => {}
        () = stop.wait() => {}
    }
}
