// The AW, W and B channels of the memory model: queues bursts, takes a beat of data only for a burst whose address is
// known, and answers a burst when its latency has passed.

`default_nettype none

module cosim_dram_write #(
    parameter DATA_BITS    = 128,
    parameter ADDRESS_BITS = 40,
    parameter ID_BITS      = 2,
    parameter FIFO_DEPTH   = 32
) (
    input  wire                    clk,
    input  wire                    rst,
    input  wire [63:0]             now,
    input  wire [15:0]             latency,
    input  wire                    stall_aw,
    input  wire                    stall_w,
    input  wire                    stall_b,

    output wire                    beat_wanted,
    input  wire                    beat_taken,
    output wire [ADDRESS_BITS-1:0] beat_address,
    input  wire  [1:0]             beat_response,
    output wire                    beat_last,

    input  wire [ID_BITS-1:0]      axi_awid,
    input  wire [ADDRESS_BITS-1:0] axi_awaddr,
    input  wire  [7:0]             axi_awlen,
    input  wire                    axi_awvalid,
    output wire                    axi_awready,
    input  wire                    axi_wvalid,
    output wire                    axi_wready,
    output reg  [ID_BITS-1:0]      axi_bid,
    output reg   [1:0]             axi_bresp,
    output reg                     axi_bvalid,
    input  wire                    axi_bready
);
    localparam BEAT_BYTES = DATA_BITS / 8;

    // ------------------------------------------------------------------------------------------------ bursts to write
    wire                        push = axi_awvalid && axi_awready;
    wire                        burst_done = beat_taken && beat_last;
    wire [ID_BITS-1:0]          id;
    wire [ADDRESS_BITS-1:0]     address;
    wire  [7:0]                 len;
    wire [$clog2(FIFO_DEPTH):0] level, answers_level;
    reg   [7:0]                 beat;
    reg   [1:0]                 worst_response;  // of the beats before this one

    cosim_fifo #(.WIDTH(ID_BITS + ADDRESS_BITS + 8), .DEPTH(FIFO_DEPTH)) bursts (
        .clk(clk), .rst(rst), .push(push), .pop(burst_done), .level(level),
        .tail({axi_awid, axi_awaddr, axi_awlen}),
        .head({id, address, len})
    );

    wire [1:0] response = beat_response > worst_response ? beat_response : worst_response;

    assign axi_awready = level != FIFO_DEPTH && !stall_aw;
    assign axi_wready = beat_taken;
    assign beat_last = beat == len;
    assign beat_address = {address[ADDRESS_BITS-1:$clog2(BEAT_BYTES)], {$clog2(BEAT_BYTES){1'b0}}} + beat * BEAT_BYTES;
    assign beat_wanted = level != 0 && answers_level != FIFO_DEPTH && axi_wvalid && !stall_w;

    always @(posedge clk) begin
        if (beat_taken) begin
            beat <= beat_last ? 8'd0 : beat + 8'd1;
            worst_response <= beat_last ? 2'd0 : response;
        end
        if (rst) begin
            beat <= 0;
            worst_response <= 0;
        end
    end

    // -------------------------------------------------------------------------------------------------------- answers
    wire [63:0]        due;
    wire [ID_BITS-1:0] answer_id;
    wire  [1:0]        answer_response;
    wire               answer = answers_level != 0 && now >= due && (!axi_bvalid || axi_bready) && !stall_b;

    cosim_fifo #(.WIDTH(64 + ID_BITS + 2), .DEPTH(FIFO_DEPTH)) answers (
        .clk(clk), .rst(rst), .push(burst_done), .pop(answer), .level(answers_level),
        .tail({now + {48'd0, latency} - 64'd1, id, response}),
        .head({due, answer_id, answer_response})
    );

    always @(posedge clk) begin
        if (axi_bvalid && axi_bready) axi_bvalid <= 0;
        if (answer) begin
            axi_bid <= answer_id;
            axi_bresp <= answer_response;
            axi_bvalid <= 1;
        end
        if (rst) axi_bvalid <= 0;
    end
endmodule

`default_nettype wire
