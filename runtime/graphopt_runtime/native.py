"""The thread team's native code, as LLVM IR text: start, run, barrier, stop.

A team is one block of memory that Python allocates; the constants below are byte offsets into it. Words that
different threads write lie on different pairs of cache lines (128 bytes, as processors fetch lines in pairs).

How a job travels: the caller stores the job's address, then raises `generation`. A worker that still spins sees it at
once; one that sleeps has counted itself in `sleepers` beforehand, so the caller knows that it must broadcast. Both
sides write one word and read the other's in sequential consistency, hence no wake-up is lost: either the caller sees
the sleeper, or the sleeper sees the new generation before it waits. A worker that is done stores the generation into
its own record, where the caller waits for it.

Work may be dealt out in chunks instead of even shares: `deal` is a barrier behind which `take` hands out numbers, a thread's
own ones first, then those that others have left. Processors seldom run alike (others use them too), and who is done early
takes from who is not. Threads count dealt kernels; odd and even ones have counters of their own, so a counter is reset
only when the barrier of the kernel between has shown that nobody takes from it any more.

A job may say how long its caller waits for the workers to come: they announce themselves in their records, and the caller
then stores in `go` twice the generation, or one more when it has waited long enough: the workers let that job pass, and
the caller runs it as a team of one. So a small step never waits for a thread that sleeps or has no processor. Workers stay
awake for longer than a Python program usually needs between two steps, and still longer when they came too late.

The barrier is the dissemination barrier of Hensgen, Finkel and Manber (1988): in round k every thread signals the one
2^k further on and waits for its own signal. Signals are counters, so nothing is ever reset; no two threads write one
word, and the widest team needs ten rounds.

Whoever waits, at a barrier or for the end of a job, spins for a moment, since on processors of their own threads arrive
together; then it sleeps in the kernel (a futex, where there is one) beside a flag that tells
the thread it waits for to wake it: that thread may be waiting for this very processor. The flag is read without a fence,
which would cost a third of a barrier, so a wake-up can be missed by a few nanoseconds: a sleeper wakes by itself, too.
"""

from __future__ import annotations

from string import Template

from .buffers import DATA_FIELD
from .native_steps import STEPS

SIZE, PATIENCE, STARTED = 0, 8, 16  # threads; rounds that a waiting thread spins before it sleeps; workers to be joined
SOLO = 24  # the record of a team of one, for jobs that the workers let pass
GENERATION, JOB, GO = 128, 136, 144
SLEEPERS = 256
MUTEX, CONDITION, ATTRIBUTES = 384, 640, 896  # opaque to us: 256 bytes each, the largest libc needs 64
RECORDS = 1152  # one for each thread

# A record: team, number, pthread_t, barriers passed and kernels dealt; then the generation done, and the one come for; then
# whether the thread sleeps over a word it waits for, on a line that others can read at any time since it seldom changes; then
# the chunks taken of this thread's share of even and of odd kernels; then the signals, a line for each round.
NUMBER, HANDLE, PASSED, DEALT, DONE, COME, ASLEEP, TAKEN, SIGNALS = 8, 16, 24, 32, 128, 136, 256, 384, 512
LINE_BYTES = 128
RECORD_BYTES = SIGNALS + 10 * LINE_BYTES
MAX_WIDTH = 1 << 10

TABLE = "graphopt_team_functions"
"""The one exported name: pointers to start, stop, run, spin, barrier, deal, take, call, many, mark."""


_HOT_ROUNDS = 256  # the first rounds of waiting do not pause: threads that arrive together leave within 0.1 us
_IDLE_YIELD = 128  # a power of two: an idle worker offers its processor every so many rounds
_IDLE = 32  # times as long a worker without a job stays awake
_LATE = 100  # and one that came too late for a job: the next one may come soon
_SLEEP_NS = 500_000  # at most; a wake-up may have been missed
_STACK_BYTES = 8 << 20

_PAUSE = {
    "x86_64": ("declare void @llvm.x86.sse2.pause()", "call void @llvm.x86.sse2.pause()"),
    "aarch64": ("declare void @llvm.aarch64.hint(i32)", "call void @llvm.aarch64.hint(i32 1)"),
}

# Arithmetic must have the same meaning on every thread and whatever another library did to this one: round to nearest,
# denormals kept (a step may flush them, and sets this mode again), no traps. The caller's own mode, with the flags it had,
# comes back after the job.
_MODE = {
    "x86_64": """
declare void @llvm.x86.sse.stmxcsr(ptr)
declare void @llvm.x86.sse.ldmxcsr(ptr)
define internal i64 @mode_enter() alwaysinline nounwind {
  %slot = alloca i32
  call void @llvm.x86.sse.stmxcsr(ptr %slot)
  %old = load i32, ptr %slot
  store i32 8064, ptr %slot
  call void @llvm.x86.sse.ldmxcsr(ptr %slot)
  %wide = zext i32 %old to i64
  ret i64 %wide
}
define internal void @mode_leave(i64 %old) alwaysinline nounwind {
  %slot = alloca i32
  %narrow = trunc i64 %old to i32
  store i32 %narrow, ptr %slot
  call void @llvm.x86.sse.ldmxcsr(ptr %slot)
  ret void
}
""",
    "aarch64": """
declare i64 @llvm.aarch64.get.fpcr()
declare void @llvm.aarch64.set.fpcr(i64)
define internal i64 @mode_enter() alwaysinline nounwind {
  %old = call i64 @llvm.aarch64.get.fpcr()
  call void @llvm.aarch64.set.fpcr(i64 0)
  ret i64 %old
}
define internal void @mode_leave(i64 %old) alwaysinline nounwind {
  call void @llvm.aarch64.set.fpcr(i64 %old)
  ret void
}
""",
}
_NO_MODE = """
define internal i64 @mode_enter() alwaysinline nounwind {
  ret i64 0
}
define internal void @mode_leave(i64 %old) alwaysinline nounwind {
  ret void
}
"""

_FUTEX = {"x86_64": 202, "aarch64": 98, "riscv64": 98}  # the number of Linux' system call
_REST = Template("""
declare i64 @syscall(i64, ...)
@longest = internal constant [2 x i64] [i64 0, i64 $SLEEP_NS]
define internal void @rest(ptr %word, i64 %seen) noinline nounwind {
  %low = trunc i64 %seen to i32
  %ignored = call i64 (i64, ...) @syscall(i64 $FUTEX, ptr %word, i32 128, i32 %low, ptr @longest, ptr null, i32 0)
  ret void
}
define internal void @rouse(ptr %word) noinline nounwind {
  %ignored = call i64 (i64, ...) @syscall(i64 $FUTEX, ptr %word, i32 129, i32 1, ptr null, ptr null, i32 0)
  ret void
}
""")
_NO_REST = """
define internal void @rest(ptr %word, i64 %seen) noinline nounwind {
  %ignored = call i32 @sched_yield()
  ret void
}
define internal void @rouse(ptr %word) alwaysinline nounwind {
  ret void
}
"""

_TEXT = Template("""
@$TABLE = constant [10 x ptr] [
  ptr @start, ptr @stop, ptr @run, ptr @spin, ptr @barrier, ptr @deal, ptr @take, ptr @call, ptr @many, ptr @mark
]

declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_join(i64, ptr)
declare i32 @pthread_attr_init(ptr)
declare i32 @pthread_attr_setstacksize(ptr, i64)
declare i32 @pthread_attr_destroy(ptr)
declare i32 @pthread_mutex_init(ptr, ptr)
declare i32 @pthread_mutex_lock(ptr)
declare i32 @pthread_mutex_unlock(ptr)
declare i32 @pthread_mutex_destroy(ptr)
declare i32 @pthread_cond_init(ptr, ptr)
declare i32 @pthread_cond_wait(ptr, ptr)
declare i32 @pthread_cond_broadcast(ptr)
declare i32 @pthread_cond_destroy(ptr)
declare i32 @sched_yield()
declare i32 @clock_gettime(i32, ptr)
$DECLARE_PAUSE
$SLEEP

define internal void @spin(i64 %rounds) nounwind {
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  $PAUSE
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %rounds
  br i1 %more, label %loop, label %done
done:
  ret void
}

; Wait until a word that only grows has reached `count`; the record is the waiting thread's.
define internal void @await(ptr %word, i64 %count, i64 %patience, ptr %record) nounwind {
entry:
  br label %watch
watch:
  %round = phi i64 [ 0, %entry ], [ %next, %again ], [ %next, %pause ]
  %got = load atomic i64, ptr %word acquire, align 8
  %come = icmp uge i64 %got, %count
  br i1 %come, label %done, label %spinning
spinning:
  %next = add i64 %round, 1
  %tired = icmp ugt i64 %round, %patience
  br i1 %tired, label %lie_down, label %again
again:
  %hot = icmp ult i64 %round, $HOT_ROUNDS
  br i1 %hot, label %watch, label %pause
pause:
  $PAUSE
  br label %watch
lie_down:
  %flag = getelementptr i8, ptr %record, i64 $ASLEEP
  store atomic i64 1, ptr %flag seq_cst, align 8
  br label %check
check:
  %last = load atomic i64, ptr %word seq_cst, align 8
  %woken = icmp uge i64 %last, %count
  br i1 %woken, label %rise, label %doze
doze:
  call void @rest(ptr %word, i64 %last)
  br label %check
rise:
  store atomic i64 0, ptr %flag monotonic, align 8
  br label %done
done:
  ret void
}

; Let a word grow to `count`; the record is that of the thread that may wait for it.
define internal void @advance(ptr %word, i64 %count, ptr %record) alwaysinline nounwind {
entry:
  store atomic i64 %count, ptr %word release, align 8
  %flag = getelementptr i8, ptr %record, i64 $ASLEEP
  %asleep = load atomic i64, ptr %flag monotonic, align 8
  %nobody = icmp eq i64 %asleep, 0
  br i1 %nobody, label %done, label %wake
wake:
  call void @rouse(ptr %word)
  br label %done
done:
  ret void
}

; graphopt_barrier: the argument is the calling thread's record.
define internal void @barrier(ptr %record) nounwind {
entry:
  %team = load ptr, ptr %record
  %size = load i64, ptr %team
  %number_at = getelementptr i8, ptr %record, i64 $NUMBER
  %number = load i64, ptr %number_at
  %patience_at = getelementptr i8, ptr %team, i64 $PATIENCE
  %patience = load i64, ptr %patience_at
  %passed_at = getelementptr i8, ptr %record, i64 $PASSED
  %passed = load i64, ptr %passed_at
  %count = add i64 %passed, 1
  store i64 %count, ptr %passed_at
  %records = getelementptr i8, ptr %team, i64 $RECORDS
  br label %round
round:
  %distance = phi i64 [ 1, %entry ], [ %double, %send ]
  %signal = phi i64 [ $SIGNALS, %entry ], [ %next_signal, %send ]
  %more = icmp ult i64 %distance, %size
  br i1 %more, label %send, label %done
send:
  %ahead = add i64 %number, %distance
  %beyond = icmp uge i64 %ahead, %size
  %wrapped = sub i64 %ahead, %size
  %partner = select i1 %beyond, i64 %wrapped, i64 %ahead
  %offset = mul i64 %partner, $RECORD_BYTES
  %partner_record = getelementptr i8, ptr %records, i64 %offset
  %theirs = getelementptr i8, ptr %partner_record, i64 %signal
  %mine = getelementptr i8, ptr %record, i64 %signal
  call void @advance(ptr %theirs, i64 %count, ptr %partner_record)
  call void @await(ptr %mine, i64 %count, i64 %patience, ptr %record)
  %double = shl i64 %distance, 1
  %next_signal = add i64 %signal, $LINE_BYTES
  br label %round
done:
  ret void
}

; A job: function, team, arena, scratch, bytes of scratch per thread, rounds to wait for the workers (-1: as long as it
; takes), then the table of arguments.
define internal void @perform(ptr %job, ptr %record, i64 %thread) alwaysinline nounwind {
  %function = load ptr, ptr %job
  %team = load ptr, ptr %record
  %size = load i64, ptr %team
  %arena_at = getelementptr i8, ptr %job, i64 16
  %arena = load ptr, ptr %arena_at
  %scratch_at = getelementptr i8, ptr %job, i64 24
  %all_scratch = load ptr, ptr %scratch_at
  %stride_at = getelementptr i8, ptr %job, i64 32
  %stride = load i64, ptr %stride_at
  %offset = mul i64 %stride, %thread
  %scratch = getelementptr i8, ptr %all_scratch, i64 %offset
  %args = getelementptr i8, ptr %job, i64 48
  call void %function(i64 %thread, i64 %size, ptr %args, ptr %arena, ptr %scratch, ptr %record)
  ret void
}

define internal i64 @publish(ptr %team, ptr %job) nounwind {
entry:
  %job_at = getelementptr i8, ptr %team, i64 $JOB
  store ptr %job, ptr %job_at
  %generation_at = getelementptr i8, ptr %team, i64 $GENERATION
  %generation = load i64, ptr %generation_at
  %next = add i64 %generation, 1
  store atomic i64 %next, ptr %generation_at seq_cst, align 8
  %sleepers_at = getelementptr i8, ptr %team, i64 $SLEEPERS
  %sleepers = load atomic i64, ptr %sleepers_at seq_cst, align 8
  %awake = icmp eq i64 %sleepers, 0
  br i1 %awake, label %done, label %wake
wake:
  %mutex = getelementptr i8, ptr %team, i64 $MUTEX
  %condition = getelementptr i8, ptr %team, i64 $CONDITION
  %r0 = call i32 @pthread_mutex_lock(ptr %mutex)
  %r1 = call i32 @pthread_mutex_unlock(ptr %mutex)
  %r2 = call i32 @pthread_cond_broadcast(ptr %condition)
  br label %done
done:
  ret i64 %next
}

; Whether all workers have come for a generation before the rounds are over.
define internal i1 @gather(ptr %team, i64 %generation, i64 %rounds) nounwind {
entry:
  %size = load i64, ptr %team
  %records = getelementptr i8, ptr %team, i64 $RECORDS
  %forever = icmp eq i64 %rounds, -1
  br i1 %forever, label %all, label %each
each:
  %i = phi i64 [ 1, %entry ], [ %i_next, %here ]
  %spent = phi i64 [ 0, %entry ], [ %round, %here ]
  %more = icmp ult i64 %i, %size
  br i1 %more, label %begin, label %all
begin:
  %offset = mul i64 %i, $RECORD_BYTES
  %record = getelementptr i8, ptr %records, i64 %offset
  %come_at = getelementptr i8, ptr %record, i64 $COME
  br label %watch
watch:
  %round = phi i64 [ %spent, %begin ], [ %next, %again ]
  %come = load atomic i64, ptr %come_at acquire, align 8
  %there = icmp eq i64 %come, %generation
  br i1 %there, label %here, label %again
again:
  $PAUSE
  %next = add i64 %round, 1
  %over = icmp ugt i64 %next, %rounds
  br i1 %over, label %none, label %watch
here:
  %i_next = add i64 %i, 1
  br label %each
all:
  ret i1 true
none:
  ret i1 false
}

; Tell the workers whether a generation is theirs.
define internal void @decide(ptr %team, i64 %generation, i1 %yes) nounwind {
entry:
  %size = load i64, ptr %team
  %records = getelementptr i8, ptr %team, i64 $RECORDS
  %go_at = getelementptr i8, ptr %team, i64 $GO
  %double = shl i64 %generation, 1
  %no = xor i1 %yes, true
  %wide = zext i1 %no to i64
  %word = add i64 %double, %wide
  br label %each
each:
  %i = phi i64 [ 1, %entry ], [ %next, %tell ]
  %more = icmp ult i64 %i, %size
  br i1 %more, label %tell, label %done
tell:
  %offset = mul i64 %i, $RECORD_BYTES
  %record = getelementptr i8, ptr %records, i64 %offset
  call void @advance(ptr %go_at, i64 %word, ptr %record)
  %next = add i64 %i, 1
  br label %each
done:
  ret void
}

define internal void @run(ptr %job) nounwind {
entry:
  %mode = call i64 @mode_enter()
  %team_at = getelementptr i8, ptr %job, i64 8
  %team = load ptr, ptr %team_at
  %size = load i64, ptr %team
  %own = getelementptr i8, ptr %team, i64 $RECORDS
  %alone = icmp eq i64 %size, 1
  br i1 %alone, label %single, label %fork
single:
  call void @perform(ptr %job, ptr %own, i64 0)
  br label %done
fork:
  %patience_at = getelementptr i8, ptr %team, i64 $PATIENCE
  %patience = load i64, ptr %patience_at
  %generation = call i64 @publish(ptr %team, ptr %job)
  %rounds_at = getelementptr i8, ptr %job, i64 40
  %rounds = load i64, ptr %rounds_at
  %come = call i1 @gather(ptr %team, i64 %generation, i64 %rounds)
  call void @decide(ptr %team, i64 %generation, i1 %come)
  br i1 %come, label %together, label %apart
apart:
  %solo_at = getelementptr i8, ptr %team, i64 $SOLO
  %solo = load ptr, ptr %solo_at
  call void @perform(ptr %job, ptr %solo, i64 0)
  br label %done
together:
  call void @perform(ptr %job, ptr %own, i64 0)
  br label %each
each:
  %i = phi i64 [ 1, %together ], [ %i_next, %join ]
  %more = icmp ult i64 %i, %size
  br i1 %more, label %join, label %done
join:
  %offset = mul i64 %i, $RECORD_BYTES
  %record = getelementptr i8, ptr %own, i64 %offset
  %done_at = getelementptr i8, ptr %record, i64 $DONE
  %i_next = add i64 %i, 1
  call void @await(ptr %done_at, i64 %generation, i64 %patience, ptr %own)
  br label %each
done:
  call void @mode_leave(i64 %mode)
  ret void
}

define internal ptr @worker(ptr %record) nounwind {
entry:
  %ignored = call i64 @mode_enter()
  %team = load ptr, ptr %record
  %number_at = getelementptr i8, ptr %record, i64 $NUMBER
  %number = load i64, ptr %number_at
  %done_at = getelementptr i8, ptr %record, i64 $DONE
  %come_at = getelementptr i8, ptr %record, i64 $COME
  %go_at = getelementptr i8, ptr %team, i64 $GO
  %generation_at = getelementptr i8, ptr %team, i64 $GENERATION
  %job_at = getelementptr i8, ptr %team, i64 $JOB
  %sleepers_at = getelementptr i8, ptr %team, i64 $SLEEPERS
  %patience_at = getelementptr i8, ptr %team, i64 $PATIENCE
  %patience = load i64, ptr %patience_at
  %late = mul i64 %patience, $LATE
  %long = mul i64 %patience, $IDLE
  %mutex = getelementptr i8, ptr %team, i64 $MUTEX
  %condition = getelementptr i8, ptr %team, i64 $CONDITION
  %caller = getelementptr i8, ptr %team, i64 $RECORDS
  br label %idle
idle:
  %seen = phi i64 [ 0, %entry ], [ %current, %work ], [ %current, %go ]
  %stay = phi i64 [ %long, %entry ], [ %long, %work ], [ %late, %go ]
  br label %watch
watch:
  %round = phi i64 [ 0, %idle ], [ %next, %yield ], [ %next, %pause ]
  %spun = load atomic i64, ptr %generation_at acquire, align 8
  %called = icmp ne i64 %spun, %seen
  br i1 %called, label %go, label %patient
patient:
  %next = add i64 %round, 1
  %tired = icmp ugt i64 %round, %stay
  br i1 %tired, label %sleep, label %again
again:
  %beat = and i64 %round, $IDLE_MASK
  %offer = icmp eq i64 %beat, $IDLE_MASK
  br i1 %offer, label %yield, label %pause
yield:
  %r3 = call i32 @sched_yield()
  br label %watch
pause:
  $PAUSE
  br label %watch
sleep:
  %r0 = call i32 @pthread_mutex_lock(ptr %mutex)
  %s0 = atomicrmw add ptr %sleepers_at, i64 1 seq_cst
  br label %check
check:
  %slept = load atomic i64, ptr %generation_at seq_cst, align 8
  %woken = icmp ne i64 %slept, %seen
  br i1 %woken, label %rise, label %doze
doze:
  %r1 = call i32 @pthread_cond_wait(ptr %condition, ptr %mutex)
  br label %check
rise:
  %s1 = atomicrmw sub ptr %sleepers_at, i64 1 seq_cst
  %r2 = call i32 @pthread_mutex_unlock(ptr %mutex)
  br label %go
go:
  %current = phi i64 [ %spun, %watch ], [ %slept, %rise ]
  store atomic i64 %current, ptr %come_at release, align 8
  %double = shl i64 %current, 1
  call void @await(ptr %go_at, i64 %double, i64 %patience, ptr %record)
  %word = load atomic i64, ptr %go_at acquire, align 8
  %mine = icmp eq i64 %word, %double
  br i1 %mine, label %take, label %idle
take:
  %job = load ptr, ptr %job_at
  %stop = icmp eq ptr %job, null
  br i1 %stop, label %done, label %work
work:
  call void @perform(ptr %job, ptr %record, i64 %number)
  call void @advance(ptr %done_at, i64 %current, ptr %caller)
  br label %idle
done:
  ret ptr null
}

; Start size - 1 workers in memory that is zero but for a size of 1 and the first record. The result is the size of the
; team: smaller than asked for when the system refuses more threads.
define internal i64 @start(ptr %team, i64 %size) nounwind {
entry:
  %mutex = getelementptr i8, ptr %team, i64 $MUTEX
  %condition = getelementptr i8, ptr %team, i64 $CONDITION
  %attributes = getelementptr i8, ptr %team, i64 $ATTRIBUTES
  %started_at = getelementptr i8, ptr %team, i64 $STARTED
  %records = getelementptr i8, ptr %team, i64 $RECORDS
  %r0 = call i32 @pthread_mutex_init(ptr %mutex, ptr null)
  %r1 = call i32 @pthread_cond_init(ptr %condition, ptr null)
  %r2 = call i32 @pthread_attr_init(ptr %attributes)
  %r3 = call i32 @pthread_attr_setstacksize(ptr %attributes, i64 $STACK_BYTES)
  br label %loop
loop:
  %i = phi i64 [ 1, %entry ], [ %next, %created ]
  %more = icmp ult i64 %i, %size
  br i1 %more, label %create, label %done
create:
  %offset = mul i64 %i, $RECORD_BYTES
  %record = getelementptr i8, ptr %records, i64 %offset
  %number_at = getelementptr i8, ptr %record, i64 $NUMBER
  %handle_at = getelementptr i8, ptr %record, i64 $HANDLE
  store ptr %team, ptr %record
  store i64 %i, ptr %number_at
  %failed = call i32 @pthread_create(ptr %handle_at, ptr %attributes, ptr @worker, ptr %record)
  %well = icmp eq i32 %failed, 0
  br i1 %well, label %created, label %done
created:
  store i64 %i, ptr %started_at
  %next = add i64 %i, 1
  br label %loop
done:
  %r4 = call i32 @pthread_attr_destroy(ptr %attributes)
  store i64 %i, ptr %team
  ret i64 %i
}

define internal void @stop(ptr %team) nounwind {
entry:
  %started_at = getelementptr i8, ptr %team, i64 $STARTED
  %started = load i64, ptr %started_at
  %generation = call i64 @publish(ptr %team, ptr null)
  call void @decide(ptr %team, i64 %generation, i1 true)
  %records = getelementptr i8, ptr %team, i64 $RECORDS
  br label %loop
loop:
  %i = phi i64 [ 1, %entry ], [ %next, %join ]
  %more = icmp ule i64 %i, %started
  br i1 %more, label %join, label %done
join:
  %offset = mul i64 %i, $RECORD_BYTES
  %record = getelementptr i8, ptr %records, i64 %offset
  %handle_at = getelementptr i8, ptr %record, i64 $HANDLE
  %handle = load i64, ptr %handle_at
  %r0 = call i32 @pthread_join(i64 %handle, ptr null)
  %next = add i64 %i, 1
  br label %loop
done:
  store i64 0, ptr %started_at
  %mutex = getelementptr i8, ptr %team, i64 $MUTEX
  %condition = getelementptr i8, ptr %team, i64 $CONDITION
  %r1 = call i32 @pthread_cond_destroy(ptr %condition)
  %r2 = call i32 @pthread_mutex_destroy(ptr %mutex)
  ret void
}
""")


def team_ir(triple: str) -> str:
    """The module for a machine: other processors than x86-64 and AArch64 wait without a pause instruction, other systems
    than Linux without a futex.
    """
    first = triple.split("-")[0]
    architecture = {"arm64": "aarch64"}.get(first, first)
    futex = _FUTEX.get(architecture) if "linux" in triple else None
    declare, pause = _PAUSE.get(architecture, ("", ""))
    words: dict[str, object] = {
        "DECLARE_PAUSE": declare, "PAUSE": pause, "TABLE": TABLE, "HOT_ROUNDS": _HOT_ROUNDS,
        "SLEEP": _NO_REST if futex is None else _REST.substitute(FUTEX=futex, SLEEP_NS=_SLEEP_NS),
        "ASLEEP": ASLEEP, "IDLE": _IDLE, "LATE": _LATE, "IDLE_MASK": _IDLE_YIELD - 1, "STACK_BYTES": _STACK_BYTES,
        "PATIENCE": PATIENCE, "STARTED": STARTED, "GENERATION": GENERATION, "JOB": JOB, "SLEEPERS": SLEEPERS,
        "MUTEX": MUTEX, "CONDITION": CONDITION, "ATTRIBUTES": ATTRIBUTES, "RECORDS": RECORDS,
        "RECORD_BYTES": RECORD_BYTES, "NUMBER": NUMBER, "HANDLE": HANDLE, "PASSED": PASSED, "DEALT": DEALT, "DONE": DONE,
        "COME": COME, "SOLO": SOLO, "GO": GO, "TAKEN": TAKEN,
        "SIGNALS": SIGNALS, "LINE_BYTES": LINE_BYTES, "DATA_FIELD": DATA_FIELD,
        "MONOTONIC": 6 if "darwin" in triple else 1,
    }  # fmt: skip
    return _MODE.get(architecture, _NO_MODE) + _TEXT.substitute(words) + STEPS.substitute(words)
