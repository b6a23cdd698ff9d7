import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.rocketmq.client.apis.ClientConfiguration;
import org.apache.rocketmq.client.apis.ClientServiceProvider;
import org.apache.rocketmq.client.apis.consumer.FilterExpression;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;
import org.apache.rocketmq.client.apis.message.Message;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;
import org.apache.rocketmq.client.apis.producer.Transaction;
import org.apache.rocketmq.client.apis.producer.TransactionResolution;

/**
 * A transaction with the RocketMQ 5 client for Java, org.apache.rocketmq:rocketmq-client-java:5.2.0.
 * java -cp rocketmq-client-java-5.2.0.jar Order.java [HOST:PORT]
 */
public final class Order {
    private static final Set<String> ORDERS = ConcurrentHashMap.newKeySet(); // stands for the database of the shop

    public static void main(String[] arguments) throws Exception {
        String endpoint = arguments.length > 0 ? arguments[0] : "127.0.0.1:8081";
        ClientServiceProvider provider = ClientServiceProvider.loadService();
        ClientConfiguration configuration = ClientConfiguration.newBuilder().setEndpoints(endpoint).build();
        Producer producer = provider.newProducerBuilder()
            .setClientConfiguration(configuration)
            .setTopics("java-orders")
            // HalfMQ asks what became of a half message that nobody decided.
            .setTransactionChecker(message ->
                ORDERS.contains(body(message)) ? TransactionResolution.COMMIT : TransactionResolution.ROLLBACK)
            .build();

        Message half = provider.newMessageBuilder()
            .setTopic("java-orders").setTag("placed").setBody("order 42".getBytes(StandardCharsets.UTF_8)).build();
        Transaction transaction = producer.beginTransaction();
        producer.send(half, transaction); // durable, and nobody sees it
        ORDERS.add("order 42"); // the local transaction
        transaction.commit(); // now everybody does

        SimpleConsumer consumer = provider.newSimpleConsumerBuilder()
            .setClientConfiguration(configuration)
            .setConsumerGroup("java-cart")
            .setAwaitDuration(Duration.ofSeconds(10))
            .setSubscriptionExpressions(Map.of("java-orders", new FilterExpression("placed")))
            .build();
        for (MessageView message : consumer.receive(16, Duration.ofSeconds(15))) {
            System.out.println("received " + body(message));
            consumer.ack(message);
        }
        consumer.close();
        producer.close();
    }

    private static String body(MessageView message) {
        return StandardCharsets.UTF_8.decode(message.getBody()).toString();
    }
}
