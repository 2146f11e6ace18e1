// Divides the memory's bandwidth into beats and gives each beat to the second master or to the NPU.
//
// `bandwidth` is in 1/256 byte per cycle and counts for reads, writes and the second master together. A beat that
// nobody uses is lost: bandwidth is not saved up. The second master takes `traffic_share` / 256 of all beats, evenly,
// or each beat with that probability if `traffic_random` is set. There is at most one beat per cycle.

`default_nettype none

module cosim_bandwidth #(
    parameter [63:0] BEAT_BYTES = 16
) (
    input  wire        clk,
    input  wire        rst,
    input  wire [15:0] bandwidth,
    input  wire  [8:0] traffic_share,
    input  wire        traffic_random,
    input  wire  [7:0] random_byte,
    output wire        npu_beat,  // the NPU may move a beat in this cycle
    output wire        traffic_beat,  // the second master moves one
    output reg  [63:0] traffic_bytes
);
    localparam [17:0] BEAT = {2'd0, BEAT_BYTES[7:0], 8'd0};  // in 1/256 byte

    initial traffic_bytes = 0;

    reg  [17:0] credit;  // 1/256 byte
    reg   [8:0] traffic_credit;  // 1/256 beat
    wire [17:0] available = credit + {2'b00, bandwidth};
    wire        beat = available >= BEAT;
    wire  [9:0] traffic_available = {1'b0, traffic_credit} + {1'b0, traffic_share};
    wire        traffic_takes = traffic_random ? {1'b0, random_byte} < traffic_share : traffic_available >= 10'd256;
    wire  [9:0] traffic_left = traffic_available >= 10'd256 ? traffic_available - 10'd256 : traffic_available;

    assign npu_beat = beat && !traffic_takes;
    assign traffic_beat = beat && traffic_takes;

    always @(posedge clk) begin
        // More than one beat per cycle does not fit on the bus, so the rest of such a rate is dropped.
        credit <= !beat ? available : available - BEAT > BEAT ? BEAT : available - BEAT;
        if (beat) traffic_credit <= traffic_left[8:0];
        if (traffic_beat) traffic_bytes <= traffic_bytes + BEAT_BYTES;
        if (rst) begin
            credit <= 0;
            traffic_credit <= 0;
        end
    end
endmodule

`default_nettype wire
