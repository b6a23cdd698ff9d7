import java.io.BufferedReader;
import java.io.Closeable;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.math.BigInteger;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.time.Duration;
import java.util.Collections;
import java.util.HashMap;
import java.util.Map;
import java.util.TreeSet;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.rocketmq.client.apis.ClientConfiguration;
import org.apache.rocketmq.client.apis.ClientConfigurationBuilder;
import org.apache.rocketmq.client.apis.ClientServiceProvider;
import org.apache.rocketmq.client.apis.StaticSessionCredentialsProvider;
import org.apache.rocketmq.client.apis.consumer.ConsumeResult;
import org.apache.rocketmq.client.apis.consumer.FilterExpression;
import org.apache.rocketmq.client.apis.consumer.FilterExpressionType;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;
import org.apache.rocketmq.client.apis.message.Message;
import org.apache.rocketmq.client.apis.message.MessageBuilder;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;
import org.apache.rocketmq.client.apis.producer.SendReceipt;
import org.apache.rocketmq.client.apis.producer.Transaction;
import org.apache.rocketmq.client.apis.producer.TransactionResolution;
import org.apache.rocketmq.shaded.com.google.gson.Gson;
import org.apache.rocketmq.shaded.com.google.gson.JsonElement;
import org.apache.rocketmq.shaded.com.google.gson.JsonObject;

/** A driver around the Java library; see ../README.md. It speaks TLS unless told not to, as the library does. */
public final class Driver {
    private static final ClientServiceProvider PROVIDER = ClientServiceProvider.loadService();
    private static final Gson GSON = new Gson();
    private static final PrintStream OUT = System.out;
    private static final Map<String, Closeable> CLIENTS = new HashMap<>();
    private static final Map<String, Transaction> TRANSACTIONS = new HashMap<>();
    private static final Map<String, Delivery> DELIVERIES = new HashMap<>();
    private static volatile String answer = "COMMIT";
    private static int numbers;

    private record Delivery(SimpleConsumer consumer, MessageView view) {}

    public static void main(String[] arguments) throws Exception {
        // The library prints too.
        System.setOut(System.err);
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            JsonObject command = GSON.fromJson(line, JsonObject.class);
            JsonObject done = new JsonObject();
            try {
                run(command, done);
            } catch (Throwable error) {
                JsonObject told = new JsonObject();
                told.addProperty("type", error.getClass().getSimpleName());
                told.addProperty("text", String.valueOf(error.getMessage()));
                done.add("error", told);
            }
            done.add("id", command.get("id"));
            say(done);
        }
        Runtime.getRuntime().halt(0);
    }

    private static void run(JsonObject command, JsonObject done) throws Exception {
        switch (text(command, "op")) {
            case "producer" -> producer(command);
            case "answer" -> answer = text(command, "value");
            case "send" -> {
                SendReceipt receipt = sender(command).send(message(command));
                done.addProperty("message_id", receipt.getMessageId().toString());
                done.addProperty("recall_handle", receipt.getRecallHandle());
            }
            case "half" -> {
                Transaction transaction = sender(command).beginTransaction();
                SendReceipt receipt = sender(command).send(message(command), transaction);
                String token = String.valueOf(++numbers);
                TRANSACTIONS.put(token, transaction);
                done.addProperty("tx", token);
                done.addProperty("message_id", receipt.getMessageId().toString());
            }
            case "end" -> {
                Transaction transaction = TRANSACTIONS.get(text(command, "tx"));
                if (text(command, "resolution").equals("COMMIT")) {
                    transaction.commit();
                } else {
                    transaction.rollback();
                }
            }
            case "recall" -> sender(command).recallMessage(text(command, "topic"), text(command, "handle"));
            case "simple" -> simple(command);
            case "receive" -> receive(command, done);
            case "ack" -> {
                Delivery delivery = DELIVERIES.get(text(command, "token"));
                delivery.consumer().ack(delivery.view());
            }
            case "invisible" -> {
                Delivery delivery = DELIVERIES.get(text(command, "token"));
                Duration span = Duration.ofSeconds(command.get("seconds").getAsLong());
                delivery.consumer().changeInvisibleDuration(delivery.view(), span);
            }
            case "push" -> push(command);
            case "close" -> CLIENTS.remove(text(command, "name")).close();
            default -> throw new IllegalArgumentException("no such command");
        }
    }

    private static Producer sender(JsonObject command) {
        return (Producer) CLIENTS.get(text(command, "producer"));
    }

    private static void producer(JsonObject command) throws Exception {
        String[] topics = GSON.fromJson(command.get("topics"), String[].class);
        Producer producer = PROVIDER.newProducerBuilder()
            .setClientConfiguration(configuration(command))
            .setTopics(topics)
            .setTransactionChecker(view -> {
                String says = answer;
                JsonObject event = shown(view);
                event.addProperty("event", "check");
                event.addProperty("answer", says);
                say(event);
                return TransactionResolution.valueOf(says);
            })
            .build();
        CLIENTS.put(text(command, "name"), producer);
    }

    private static void simple(JsonObject command) throws Exception {
        SimpleConsumer consumer = PROVIDER.newSimpleConsumerBuilder()
            .setClientConfiguration(configuration(command))
            .setConsumerGroup(text(command, "group"))
            .setAwaitDuration(Duration.ofSeconds(command.has("await_s") ? command.get("await_s").getAsLong() : 5))
            .setSubscriptionExpressions(filters(command))
            .build();
        CLIENTS.put(text(command, "name"), consumer);
    }

    private static void receive(JsonObject command, JsonObject done) throws Exception {
        SimpleConsumer consumer = (SimpleConsumer) CLIENTS.get(text(command, "consumer"));
        Duration invisible = Duration.ofSeconds(command.get("invisible_s").getAsLong());
        var messages = new org.apache.rocketmq.shaded.com.google.gson.JsonArray();
        for (MessageView view : consumer.receive(command.get("max").getAsInt(), invisible)) {
            String token = String.valueOf(++numbers);
            DELIVERIES.put(token, new Delivery(consumer, view));
            JsonObject message = shown(view);
            message.addProperty("token", token);
            messages.add(message);
        }
        done.add("messages", messages);
    }

    private static void push(JsonObject command) throws Exception {
        Map<String, Integer> failed = new ConcurrentHashMap<>();
        long hold = command.has("hold_s") ? command.get("hold_s").getAsLong() : 0;
        int fail = command.has("fail") ? command.get("fail").getAsInt() : 0;
        CLIENTS.put(text(command, "name"), PROVIDER.newPushConsumerBuilder()
            .setClientConfiguration(configuration(command))
            .setConsumerGroup(text(command, "group"))
            .setSubscriptionExpressions(filters(command))
            .setMessageListener(view -> {
                JsonObject event = shown(view);
                event.addProperty("event", "message");
                event.addProperty("consumer", text(command, "name"));
                say(event);
                hold(hold);
                int times = failed.merge(StandardCharsets.ISO_8859_1.decode(view.getBody()).toString(), 1, Integer::sum);
                return times <= fail ? ConsumeResult.FAILURE : ConsumeResult.SUCCESS;
            })
            .build());
    }

    private static void hold(long seconds) {
        try {
            Thread.sleep(seconds * 1000);
        } catch (InterruptedException stopped) {
            Thread.currentThread().interrupt();
        }
    }

    private static ClientConfiguration configuration(JsonObject command) {
        ClientConfigurationBuilder builder =
            ClientConfiguration.newBuilder().setEndpoints(text(command, "endpoint"));
        if (command.has("access")) {
            builder.setCredentialProvider(
                new StaticSessionCredentialsProvider(text(command, "access"), text(command, "secret")));
        }
        if (command.has("tls")) {
            builder.enableSsl(command.get("tls").getAsBoolean());
        }
        return builder.build();
    }

    private static Map<String, FilterExpression> filters(JsonObject command) {
        String expression = command.has("filter") ? text(command, "filter") : "*";
        FilterExpressionType type = command.has("sql") ? FilterExpressionType.SQL92 : FilterExpressionType.TAG;
        return Collections.singletonMap(text(command, "topic"), new FilterExpression(expression, type));
    }

    private static Message message(JsonObject command) {
        byte[] body = command.has("size")
            ? "x".repeat(command.get("size").getAsInt()).getBytes(StandardCharsets.UTF_8)
            : text(command, "body").getBytes(StandardCharsets.UTF_8);
        MessageBuilder builder = PROVIDER.newMessageBuilder().setTopic(text(command, "topic")).setBody(body);
        if (command.has("tag")) {
            builder.setTag(text(command, "tag"));
        }
        if (command.has("keys")) {
            builder.setKeys(GSON.fromJson(command.get("keys"), String[].class));
        }
        if (command.has("properties")) {
            for (Map.Entry<String, JsonElement> property : command.getAsJsonObject("properties").entrySet()) {
                builder.addProperty(property.getKey(), property.getValue().getAsString());
            }
        }
        if (command.has("group")) {
            builder.setMessageGroup(text(command, "group"));
        }
        if (command.has("delay_ms")) {
            builder.setDeliveryTimestamp(System.currentTimeMillis() + command.get("delay_ms").getAsLong());
        }
        return builder.build();
    }

    private static JsonObject shown(MessageView view) {
        ByteBuffer buffer = view.getBody();
        byte[] body = new byte[buffer.remaining()];
        buffer.get(body);
        JsonObject line = new JsonObject();
        line.addProperty("body", body.length < 1000 ? new String(body, StandardCharsets.UTF_8) : null);
        line.addProperty("size", body.length);
        line.addProperty("md5", md5(body));
        line.addProperty("tag", view.getTag().orElse(null));
        line.add("keys", GSON.toJsonTree(new TreeSet<>(view.getKeys())));
        line.add("properties", GSON.toJsonTree(view.getProperties()));
        line.addProperty("message_id", view.getMessageId().toString());
        line.addProperty("attempt", view.getDeliveryAttempt());
        return line;
    }

    private static String md5(byte[] body) {
        try {
            return String.format("%032x", new BigInteger(1, MessageDigest.getInstance("MD5").digest(body)));
        } catch (java.security.NoSuchAlgorithmException impossible) {
            throw new AssertionError(impossible);
        }
    }

    private static String text(JsonObject command, String field) {
        return command.get(field).getAsString();
    }

    private static void say(JsonObject line) {
        synchronized (OUT) {
            OUT.println(GSON.toJson(line));
            OUT.flush();
        }
    }
}
