import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.ByteBuffer;
import java.util.Arrays;
import java.util.BitSet;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;

/**
 * The load of `halfmq bench` through one of RocketMQ's own clients: so many transactions in flight, each prepared,
 * run, committed, received and acked; at most so many committed and not yet consumed.
 *
 * It reads lines "TOPIC TRANSACTIONS IN_FLIGHT" and prints one JSON each. One JVM for all lines, so that it is warm;
 * a topic of its own for each line, so that no earlier one reaches into it.
 */
final class Load {
    private static final long STALL_SECONDS = 90;
    private static final long FIRST_SECONDS = 120;
    private static final long FIRST_AGAIN_SECONDS = 10;
    /** Of a message that makes the topic and shows that its consumer is there. */
    private static final int FIRST_BYTES = 4;

    /** A client of the server: a producer and a consumer of one topic. */
    interface Door extends AutoCloseable {
        /** Half message, `run`, commit. False or an exception: it must be tried again as a new transaction. */
        boolean transaction(byte[] body, Runnable run) throws Exception;

        @Override
        void close() throws java.io.IOException;
    }

    interface Opening {
        Door open(String endpoint, String topic, Load load) throws Exception;
    }

    private final int transactions;
    private final int inFlight;
    private final int bytes;
    private final Semaphore room;
    private final AtomicInteger next = new AtomicInteger();
    private final AtomicLong checked = new AtomicLong();
    private final AtomicLong failed = new AtomicLong();
    private final AtomicLong twice = new AtomicLong();
    private final AtomicLong lastConsumed = new AtomicLong();
    private final long[] began;
    private final long[] prepared;
    private final long[] sent;
    private final long[] endToEnd;
    private final BitSet consumed = new BitSet();
    private final CountDownLatch firstConsumed = new CountDownLatch(1);
    private final CountDownLatch allConsumed;

    private Load(int transactions, int inFlight, int bytes, int window) {
        this.transactions = transactions;
        this.inFlight = inFlight;
        this.bytes = bytes;
        this.room = new Semaphore(Math.max(window, inFlight));
        this.began = new long[transactions];
        this.prepared = new long[transactions];
        this.sent = new long[transactions];
        this.endToEnd = new long[transactions];
        this.allConsumed = new CountDownLatch(transactions);
    }

    /** Arguments: ENDPOINT BYTES WINDOW. */
    static void lines(String[] arguments, Opening opening) throws Exception {
        int bytes = Integer.parseInt(arguments[1]);
        int window = Integer.parseInt(arguments[2]);
        var input = new BufferedReader(new InputStreamReader(System.in));
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            String[] asked = line.trim().split(" ");
            Load load = new Load(Integer.parseInt(asked[1]), Integer.parseInt(asked[2]), bytes, window);
            try (Door door = opening.open(arguments[0], asked[0], load)) {
                System.out.println(load.run(door));
                System.out.flush();
            }
        }
    }

    /** Threads of the clients would keep the process alive. */
    static void exitAfter(java.util.concurrent.Callable<Void> work) {
        try {
            work.call();
            System.exit(0);
        } catch (Throwable failure) {
            failure.printStackTrace();
            System.exit(1);
        }
    }

    private String run(Door door) throws Exception {
        first(door);
        long start = System.nanoTime();
        Thread[] threads = new Thread[inFlight];
        for (int i = 0; i < inFlight; i++) {
            threads[i] = new Thread(() -> produce(door));
            threads[i].start();
        }
        for (Thread thread : threads) {
            thread.join();
        }
        long before = -1;
        while (!allConsumed.await(STALL_SECONDS, TimeUnit.SECONDS) && allConsumed.getCount() != before) {
            before = allConsumed.getCount();
        }
        return result(start);
    }

    /** A server that has just started does not know itself at once, nor does a new consumer its topic. */
    private void first(Door door) throws Exception {
        long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(FIRST_SECONDS);
        boolean isSent = false;
        while (!isSent || !firstConsumed.await(FIRST_AGAIN_SECONDS, TimeUnit.SECONDS)) {
            if (System.nanoTime() > deadline) {
                throw new IllegalStateException(isSent ? "the first message never came" : "no message is taken");
            }
            try {
                isSent = door.transaction(new byte[FIRST_BYTES], () -> {});
            } catch (Exception notYet) {
                Thread.sleep(100);
            }
        }
    }

    private void produce(Door door) {
        for (int number = next.getAndIncrement(); number < transactions; number = next.getAndIncrement()) {
            room.acquireUninterruptibly();
            byte[] body = new byte[Math.max(bytes, FIRST_BYTES + 1)];
            ByteBuffer.wrap(body).putInt(number);
            int mine = number;
            boolean isDone = false;
            while (!isDone) {
                try {
                    began[mine] = System.nanoTime();
                    isDone = door.transaction(body, () -> prepared[mine] = System.nanoTime() - began[mine]);
                    sent[mine] = System.nanoTime() - began[mine];
                } catch (Exception refused) {
                    isDone = false;
                }
                if (!isDone) {
                    failed();
                }
            }
        }
    }

    /** To be called by the door's consumer with what it has just been handed, before it acks. */
    void arrived(List<ByteBuffer> bodies) {
        long now = System.nanoTime();
        int fresh = 0;
        for (ByteBuffer body : bodies) {
            if (body.remaining() == FIRST_BYTES) {
                firstConsumed.countDown();
                continue;
            }
            int number = body.getInt(body.position());
            synchronized (consumed) {
                if (consumed.get(number)) {
                    twice.incrementAndGet();
                    continue;
                }
                consumed.set(number);
            }
            endToEnd[number] = now - began[number];
            fresh++;
            allConsumed.countDown();
        }
        lastConsumed.accumulateAndGet(now, Math::max);
        room.release(fresh);
    }

    /** To be called by the door's producer when it is asked what became of a transaction; the answer is: committed. */
    void checked() {
        checked.incrementAndGet();
    }

    void failed() {
        failed.incrementAndGet();
    }

    private String result(long start) {
        double seconds = (lastConsumed.get() - start) / 1e9;
        int came;
        synchronized (consumed) {
            came = consumed.cardinality();
        }
        return String.format(
            Locale.ROOT,
            "{\"transactions\":%d,\"in_flight\":%d,\"seconds\":%.6f,\"transactions_per_second\":%.1f,"
                + "\"prepare_ms\":%s,\"send_ms\":%s,\"end_to_end_ms\":%s,\"missing\":%d,\"double\":%d,"
                + "\"checked\":%d,\"failed\":%d}",
            transactions, inFlight, seconds, came / seconds, quantiles(prepared), quantiles(sent),
            quantiles(endToEnd), transactions - came, twice.get(), checked.get(), failed.get());
    }

    private static String quantiles(long[] nanos) {
        long[] sorted = nanos.clone();
        Arrays.sort(sorted);
        double[] at = {0.5, 0.99, 0.999};
        StringBuilder text = new StringBuilder("{");
        String[] names = {"p50", "p99", "p99_9"};
        for (int i = 0; i < at.length; i++) {
            long value = sorted[(int) Math.min(sorted.length - 1, Math.ceil(at[i] * sorted.length))];
            text.append(String.format(Locale.ROOT, "%s\"%s\":%.3f", i == 0 ? "" : ",", names[i], value / 1e6));
        }
        return text.append("}").toString();
    }
}
