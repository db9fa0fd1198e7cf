"""Native code in and around single steps, as LLVM IR text that becomes a part of the team's module (see `native`): dealing out
chunks of a kernel, calling a step with array objects, running it many times, and timing its kernels.
"""

from __future__ import annotations

from string import Template

STEPS = Template("""
; graphopt_deal: a barrier behind which `take` deals out the next kernel.
define internal void @deal(ptr %record) nounwind {
  %dealt_at = getelementptr i8, ptr %record, i64 $DEALT
  %before = load i64, ptr %dealt_at
  %dealt = add i64 %before, 1
  store i64 %dealt, ptr %dealt_at
  %odd = and i64 %dealt, 1
  %counters = getelementptr i8, ptr %record, i64 $TAKEN
  %counter = getelementptr i64, ptr %counters, i64 %odd
  store atomic i64 0, ptr %counter monotonic, align 8
  call void @barrier(ptr %record)
  ret void
}

; graphopt_take: the next chunk for the thread of this record, when each thread's share has so many; -1 when all are taken.
define internal i64 @take(ptr %record, i64 %chunks) nounwind {
entry:
  %team = load ptr, ptr %record
  %size = load i64, ptr %team
  %number_at = getelementptr i8, ptr %record, i64 $NUMBER
  %number = load i64, ptr %number_at
  %dealt_at = getelementptr i8, ptr %record, i64 $DEALT
  %dealt = load i64, ptr %dealt_at
  %odd = and i64 %dealt, 1
  %records = getelementptr i8, ptr %team, i64 $RECORDS
  br label %look
look:
  %distance = phi i64 [ 0, %entry ], [ %further, %empty ]
  %ahead = add i64 %number, %distance
  %beyond = icmp uge i64 %ahead, %size
  %wrapped = sub i64 %ahead, %size
  %whose = select i1 %beyond, i64 %wrapped, i64 %ahead
  %offset = mul i64 %whose, $RECORD_BYTES
  %other = getelementptr i8, ptr %records, i64 %offset
  %mine = icmp eq i64 %distance, 0
  %theirs = select i1 %mine, ptr %record, ptr %other
  %counters = getelementptr i8, ptr %theirs, i64 $TAKEN
  %counter = getelementptr i64, ptr %counters, i64 %odd
  %seen = load atomic i64, ptr %counter monotonic, align 8
  %left = icmp ult i64 %seen, %chunks
  br i1 %left, label %try, label %empty
try:
  %got = atomicrmw add ptr %counter, i64 1 monotonic
  %good = icmp ult i64 %got, %chunks
  br i1 %good, label %found, label %empty
found:
  %first = mul i64 %whose, %chunks
  %chunk = add i64 %first, %got
  ret i64 %chunk
empty:
  %further = add i64 %distance, 1
  %more = icmp ult i64 %further, %size
  br i1 %more, label %look, label %none
none:
  ret i64 -1
}

; graphopt_mark, for steps that are profiled: add the nanoseconds since the last mark to a counter. The first word holds
; the time of the last mark, the counters follow.
define internal void @mark(ptr %times, i64 %counter) nounwind {
  %clock = alloca [2 x i64]
  %ignored = call i32 @clock_gettime(i32 $MONOTONIC, ptr %clock)
  %seconds = load i64, ptr %clock
  %rest_at = getelementptr i64, ptr %clock, i64 1
  %rest = load i64, ptr %rest_at
  %billions = mul i64 %seconds, 1000000000
  %now = add i64 %billions, %rest
  %before = load i64, ptr %times
  store i64 %now, ptr %times
  %passed = sub i64 %now, %before
  %counters = getelementptr i64, ptr %times, i64 1
  %counter_at = getelementptr i64, ptr %counters, i64 %counter
  %sum = load i64, ptr %counter_at
  %more = add i64 %sum, %passed
  store i64 %more, ptr %counter_at
  ret void
}

; Run a job on array objects. The record: the job, how many of its words are addresses of arrays, and which ones.
define internal void @call(ptr %record, ptr %objects) nounwind {
entry:
  %job = load ptr, ptr %record
  %count_at = getelementptr i64, ptr %record, i64 1
  %count = load i64, ptr %count_at
  %slots = getelementptr i64, ptr %record, i64 2
  br label %each
each:
  %i = phi i64 [ 0, %entry ], [ %next, %place ]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %place, label %go
place:
  %object_at = getelementptr ptr, ptr %objects, i64 %i
  %object = load ptr, ptr %object_at
  %field = getelementptr i8, ptr %object, i64 $DATA_FIELD
  %data = load ptr, ptr %field
  %slot_at = getelementptr i64, ptr %slots, i64 %i
  %slot = load i64, ptr %slot_at
  %word = getelementptr ptr, ptr %job, i64 %slot
  store ptr %data, ptr %word
  %next = add i64 %i, 1
  br label %each
go:
  call void @run(ptr %job)
  ret void
}

; A step that is many steps. Its table: the step, how many times, words in a thread's own table, how many of these move
; from step to step, and which ones; then where they point, step by step; then each thread's own table.
define internal void @many(i64 %thread, i64 %team, ptr %block, ptr %arena, ptr %scratch, ptr %record) nounwind {
entry:
  %step = load ptr, ptr %block
  %steps_at = getelementptr i64, ptr %block, i64 1
  %steps = load i64, ptr %steps_at
  %width_at = getelementptr i64, ptr %block, i64 2
  %width = load i64, ptr %width_at
  %count_at = getelementptr i64, ptr %block, i64 3
  %count = load i64, ptr %count_at
  %slots = getelementptr i64, ptr %block, i64 4
  %moving = getelementptr i64, ptr %slots, i64 %count
  %total = mul i64 %steps, %count
  %tables = getelementptr i64, ptr %moving, i64 %total
  %before = mul i64 %thread, %width
  %table = getelementptr i64, ptr %tables, i64 %before
  br label %loop
loop:
  %s = phi i64 [ 0, %entry ], [ %s_next, %again ]
  %first = mul i64 %s, %count
  %row = getelementptr i64, ptr %moving, i64 %first
  br label %each
each:
  %i = phi i64 [ 0, %loop ], [ %next, %place ]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %place, label %go
place:
  %from = getelementptr i64, ptr %row, i64 %i
  %data = load i64, ptr %from
  %slot_at = getelementptr i64, ptr %slots, i64 %i
  %slot = load i64, ptr %slot_at
  %word = getelementptr i64, ptr %table, i64 %slot
  store i64 %data, ptr %word
  %next = add i64 %i, 1
  br label %each
go:
  call void %step(i64 %thread, i64 %team, ptr %table, ptr %arena, ptr %scratch, ptr %record)
  %s_next = add i64 %s, 1
  %last = icmp eq i64 %s_next, %steps
  br i1 %last, label %done, label %again
again:
  call void @barrier(ptr %record)
  br label %loop
done:
  ret void
}
""")
